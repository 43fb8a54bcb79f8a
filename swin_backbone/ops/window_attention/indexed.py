"""Shifted-window attention whose trace holds for every size, for exporters.

The same numbers as ``reference.py`` from gathers instead of padding, rolling and cropping: no
size is compared with another, so a graph recorded at one size is true at all of them. In plain
PyTorch, which every runtime has.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..sizes import ceil_div, unflatten
from .reference import MASKED


class Axis(NamedTuple):
    """How one axis of a map of ``windows`` windows is padded, shifted and put back.

    Attributes:
        windows: How many windows lie along it, n.
        source: int64 (n * M,), the token that stands at each place of the padded, shifted axis.
        real: bool (n * M,), False where that is a padded token; ``source`` is then any.
        region: int64 (n * M,), which of the three regions of the shifted axis it is in.
        place: int64 (length,), where each token went.
    """

    windows: int
    source: Tensor
    real: Tensor
    region: Tensor
    place: Tensor


def shifted_window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    padding: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """As :func:`.reference.shifted_window_attention`."""
    heads = bias.shape[0]
    head_dim = qkv.shape[3] // (3 * heads)
    scale = head_dim**-0.5 if scale is None else scale
    # One by one: a tracer follows a size that is taken from a shape, but not a slice of one.
    row = _axis(qkv.shape[1], window_size, shift_size, qkv.device)
    column = _axis(qkv.shape[2], window_size, shift_size, qkv.device)

    qkv = qkv.index_select(1, row.source).index_select(2, column.source)
    real = (row.real[:, None] & column.real)[..., None]
    qkv = torch.where(real, qkv, qkv.new_zeros(()) if padding is None else padding.to(qkv.dtype))
    # (B, H, W, 3C) -> 3 × (B, windows, heads, M², head_dim)
    windows = _partition(qkv, row.windows, column.windows, window_size)
    q, k, v = unflatten(windows, -1, (3, heads, head_dim)).permute(3, 0, 1, 4, 2, 5).unbind(0)

    scores = (q * scale) @ k.transpose(-2, -1) + bias
    if shift_size:
        regions = (3 * row.region[:, None] + column.region)[None, :, :, None]
        regions = _partition(regions, row.windows, column.windows, window_size).flatten(1)
        regions = regions.view(-1, window_size**2)
        apart = regions[:, :, None] != regions[:, None, :]
        scores = scores + torch.where(apart, MASKED, 0.0).to(scores.dtype)[:, None]
    attention = F.dropout(scores.softmax(-1), dropout_p).to(v.dtype)

    out = (attention @ v).transpose(2, 3).flatten(3)
    out = unflatten(out, 2, (window_size, window_size))
    out = unflatten(out, 1, (row.windows, column.windows)).transpose(2, 3)
    out = out.flatten(3, 4).flatten(1, 2)
    return out.index_select(1, row.place).index_select(2, column.place)


def _axis(length: int, window_size: int, shift_size: int, device: torch.device) -> Axis:
    windows = ceil_div(length, window_size)
    padded = windows * window_size
    position = torch.arange(padded, device=device)
    source = torch.cat([position[shift_size:], position[:shift_size]])
    region = (position >= padded - window_size).long() + (position >= padded - shift_size)
    place = torch.arange(length, device=device) - shift_size
    place = torch.where(place < 0, place + padded, place)
    real = source < length
    # Not a clamp, which ONNX has for integers from operator set 12 on.
    return Axis(windows, torch.where(real, source, 0), real, region, place)


def _partition(x: Tensor, rows: int, columns: int, window_size: int) -> Tensor:
    """(B, rows * M, columns * M, C) to (B, rows * columns, M², C)."""
    x = unflatten(unflatten(x, 1, (rows, window_size)), 3, (columns, window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

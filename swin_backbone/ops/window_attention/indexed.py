"""Shifted-window attention for exporters: a graph traced at one size is valid for all sizes.

It computes what ``reference.py`` computes, but with gathers instead of padding, rolling and
cropping, so that no size is compared with another. It uses only PyTorch operators that every
runtime supports.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backends import Backend
from ..sizes import ceil_div, unflatten
from .reference import MASKED


class Axis(NamedTuple):
    """Indices that pad and shift one axis of a map of M-sized windows, and undo that.

    Attributes:
        windows: Number n of windows along the axis.
        source: int64 (n * M,), the token at each position of the padded, shifted axis.
        real: bool (n * M,), False for padded tokens, whose ``source`` is arbitrary.
        region: int64 (n * M,), the region of each position: 0, 1 or 2.
        place: int64 (length,), the position of each token on the padded, shifted axis.
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
    """:func:`.reference.shifted_window_attention`."""
    heads = bias.shape[0]
    head_dim = qkv.shape[3] // (3 * heads)
    scale = head_dim**-0.5 if scale is None else scale
    # Each size is read by itself: a tracer records `shape[i]`, but not a slice of `shape`.
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
    # ONNX supports clamp of integers only from operator set 12 on.
    return Axis(windows, torch.where(real, source, 0), real, region, place)


def _partition(x: Tensor, rows: int, columns: int, window_size: int) -> Tensor:
    """(B, rows * M, columns * M, C) to (B, rows * columns, M², C)."""
    x = unflatten(unflatten(x, 1, (rows, window_size)), 3, (columns, window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


BACKEND = Backend('indexed', can_run=lambda problem: None, attend=shifted_window_attention)

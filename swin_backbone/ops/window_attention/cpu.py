"""Shifted-window attention for CPUs, tile by tile, so that scores stay in the cache.

No padded, rolled or partitioned map is made: row indices gather the windows of a tile and scatter
their results. The backward pass computes the scores again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backends import Backend, Problem
from ..tiles import Tile, edge_masks, window_tiles
from .reference import MASKED


def can_run(problem: Problem) -> str | None:
    """Why this backend cannot run a problem; None if it can."""
    if problem.device.type != 'cpu':
        return f'for CPU tensors, got {problem.device.type}'
    if not problem.dtype.is_floating_point:
        return f'dtype {problem.dtype} is not floating point'
    if problem.dropout_p:
        return 'no attention dropout'
    return None


def attend(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention within n windows: (n, M², 3C) to (n, M², C); ``mask`` is (n, M², M²) or None."""
    q, k, v = _heads_apart(qkv, bias)
    if bias.dtype == q.dtype:
        mask = bias[None] if mask is None else bias + mask[:, None]
        out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    else:
        out = _weights(q * scale, k, bias, mask).to(v.dtype) @ v
    return out.transpose(1, 2).flatten(2)


def attend_backward(
    grad: Tensor, qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of ``qkv`` and ``bias``. ``grad`` is that of the result of :func:`attend`."""
    q, k, v = _heads_apart(qkv, bias)
    q = q * scale
    weights = _weights(q, k, bias, mask)
    grad = grad.unflatten(-1, (bias.shape[0], -1)).transpose(1, 2)
    d_weights = (grad @ v.transpose(-2, -1)).to(weights.dtype)
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    d_bias, d_scores = d_scores.sum(0), d_scores.to(q.dtype)
    d_v = weights.to(v.dtype).transpose(-2, -1) @ grad
    d_q, d_k = d_scores @ k * scale, d_scores.transpose(-2, -1) @ q
    d_qkv = torch.stack((d_q, d_k, d_v)).permute(1, 3, 0, 2, 4)
    return d_qkv.flatten(2), d_bias


def _heads_apart(qkv: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Views q, k and v, (n, heads, M², C / heads) each, of (n, M², 3C)."""
    return qkv.unflatten(-1, (3, bias.shape[0], -1)).permute(2, 0, 3, 1, 4).unbind()


def _weights(scaled_q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    scores = scaled_q @ k.transpose(-2, -1) + bias
    return (scores if mask is None else scores + mask[:, None]).softmax(-1)


def forward(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    """The output, (B, H, W, C). Saves nothing for the backward pass."""
    B, H, W, channels = qkv.shape
    table, bias = qkv.reshape(-1, channels), bias.contiguous()
    out = qkv.new_empty(B, H, W, channels // 3)
    out_table = out.view(-1, channels // 3)
    masks = edge_masks(window_size, shift_size, MASKED, bias)
    for tile in window_tiles((B, H, W), window_size, shift_size, masks):
        windows = _gather(table, tile, padding).unflatten(0, (-1, window_size**2))
        scatter(out_table, tile, attend(windows, bias, tile.mask, scale).flatten(0, 1))
    return out


def backward(
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of ``qkv``, ``bias`` and ``padding`` (None without padding)."""
    B, H, W, channels = qkv.shape
    table, grad = qkv.reshape(-1, channels), grad.reshape(-1, channels // 3)
    bias = bias.contiguous()
    d_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    d_table = d_qkv.view(-1, channels)
    d_bias = torch.zeros_like(bias, memory_format=torch.contiguous_format)
    d_padding = None if padding is None else torch.zeros_like(padding)
    masks = edge_masks(window_size, shift_size, MASKED, bias)
    for tile in window_tiles((B, H, W), window_size, shift_size, masks):
        windows = _gather(table, tile, padding).unflatten(0, (-1, window_size**2))
        d_out = gather_or_zero(grad, tile).unflatten(0, (-1, window_size**2))
        d_windows, d_part = attend_backward(d_out, windows, bias, tile.mask, scale)
        d_windows = d_windows.flatten(0, 1)
        d_bias += d_part
        scatter(d_table, tile, d_windows)
        if d_padding is not None and tile.real is not None:
            d_padding += d_windows[~tile.real].sum(0).to(d_padding.dtype)
    return d_qkv, d_bias, d_padding


def gather_or_zero(table: Tensor, tile: Tile) -> Tensor:
    """Gathers the rows of a tile from a table, (n * M², channels); zero for padded tokens."""
    rows = table.index_select(0, tile.rows)
    return rows if tile.real is None else rows.masked_fill_(~tile.real[:, None], 0)


def scatter(table: Tensor, tile: Tile, rows: Tensor) -> None:
    """Writes the real tokens of a tile to their rows of a table."""
    if tile.real is None:
        table.index_copy_(0, tile.rows, rows)
    else:
        table.index_copy_(0, tile.rows[tile.real], rows[tile.real])


def _gather(qkv: Tensor, tile: Tile, padding: Tensor | None) -> Tensor:
    rows = gather_or_zero(qkv, tile)
    if tile.real is not None and padding is not None:
        rows[~tile.real] = padding.to(rows.dtype)
    return rows


BACKEND = Backend('cpu', can_run=can_run, forward=forward, backward=backward)

"""Weighted sums of bilinear samples of maps, which all deformable operators compute.

The pixels of a map are the rows of a table, and the four pixels around a position are four entries
of a bag. ``embedding_bag`` computes the weighted sum of a bag's rows, so that neighbours and
samples are never materialized, and autograd supports it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pixels(maps: Tensor) -> Tensor:
    """The table of maps (N, C, H, W): N * H * W rows of C, and a last row for padding."""
    N, C, H, W = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(N * H * W, C)
    return F.pad(rows, (0, 0, 0, 1))


def samples(
    y: Tensor,
    x: Tensor,
    height: Tensor | int,
    width: Tensor | int,
    first: Tensor,
    none: int,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The rows of the four pixels around each position and their weights, both (..., 4).

    Pixels beyond a map's edge are zeros. A sample at -1 or below, at the map's size or above, or at
    NaN is zero.

    Args:
        y: Vertical positions (...). Centres of pixels are integers. The weights are differentiable
            with respect to the positions.
        x: Horizontal positions (...).
        height: Height of the maps; a number, or a tensor that broadcasts to the positions.
        width: Width of the maps, likewise.
        first: Row of the first pixel of each position's map, int64; broadcasts.
        none: The padding row.
        factor: Factor of each position's weights (...), or None.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    rows, by_rows, in_rows = _neighbours(torch.where(inside, y, 0), height)
    columns, by_columns, in_columns = _neighbours(torch.where(inside, x, 0), width)
    if factor is not None:
        by_rows = by_rows * factor[..., None]
    rows = rows * (width[..., None] if isinstance(width, Tensor) else width) + first[..., None]
    there = (in_rows & inside[..., None])[..., None] & in_columns[..., None, :]
    rows = torch.where(there, rows[..., None] + columns[..., None, :], none)
    weights = by_rows[..., None] * by_columns[..., None, :]
    return rows.flatten(-2), weights.flatten(-2)


def _neighbours(position: Tensor, size: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Two pixels along an axis, their weights, and whether they are in the map, (..., 2) each."""
    low = position.detach().floor()
    part = position - low
    pixels = torch.stack([low, low + 1], -1).long()
    size = size[..., None] if isinstance(size, Tensor) else size
    return pixels, torch.stack([1 - part, part], -1), (pixels >= 0) & (pixels < size)


def bag_sums(table: Tensor, rows: Tensor, weights: Tensor, first: Tensor | None = None) -> Tensor:
    """Weighted sums of rows: (bags, C).

    Args:
        table: Rows (R + 1, C). The last one is padding.
        rows: The rows of each bag, int64 (bags, entries); or of all bags in turn (entries,).
        weights: Weights in the shape of ``rows`` and the dtype of ``table``.
        first: First entry of each bag (bags,), if ``rows`` has one dimension.
    """
    none = table.shape[0] - 1
    return F.embedding_bag(
        rows, table, first, mode='sum', per_sample_weights=weights, padding_idx=none
    )

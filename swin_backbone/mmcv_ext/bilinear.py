"""Bilinear samples of maps, weighted and summed in bags: what deformable operators are made of.

A map's pixels are the rows of a table, the four pixels around a position are four entries of a
bag, and ``embedding_bag`` adds a bag's rows, each with its weight. So neither the four neighbours
nor the samples of a bag are ever held apart, and autograd knows the derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pixels(maps: Tensor) -> Tensor:
    """The table of maps (N, C, H, W): N * H * W rows of C, and a last row that no bag adds."""
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
    """The rows of the four pixels around each position and their weights, (..., 4) both.

    Pixels beyond a map's edge count as zeros, and so does what lies around a position at -1 or
    below, at the map's size or above, or at what is not a number.

    Args:
        y: Vertical positions (...), pixels' centres being integers. Autograd may follow the weights
            back to them.
        x: Horizontal positions (...).
        height: Of the maps; a tensor that broadcasts to the positions, or a number.
        width: Of the maps.
        first: The row of each position's map's first pixel, int64; it broadcasts.
        none: The row that stands for none.
        factor: Of each position's weights (...), or None.
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
    """Two pixels along an axis, their weights, and whether they are of the map, (..., 2) each."""
    low = position.detach().floor()
    part = position - low
    pixels = torch.stack([low, low + 1], -1).long()
    size = size[..., None] if isinstance(size, Tensor) else size
    return pixels, torch.stack([1 - part, part], -1), (pixels >= 0) & (pixels < size)


def bag_sums(table: Tensor, rows: Tensor, weights: Tensor, first: Tensor | None = None) -> Tensor:
    """Weighted sums of rows: (bags, C).

    Args:
        table: Rows, the last of which stands for none, (R + 1, C).
        rows: The rows of each bag (bags, entries), int64; or of one bag after the other (entries,).
        weights: Of the same shape and of the table's dtype.
        first: Where each bag begins (bags,), if ``rows`` has one dimension.
    """
    none = table.shape[0] - 1
    return F.embedding_bag(
        rows, table, first, mode='sum', per_sample_weights=weights, padding_idx=none
    )

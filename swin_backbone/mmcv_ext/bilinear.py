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


def corners(
    y: Tensor, x: Tensor, height: Tensor | int, width: Tensor | int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels around each position, where pixels beyond the map's edge count as zeros.

    A position at -1 or below, or at the map's size or above, is outside and has no pixels. So has
    one that is not a number.

    Args:
        y: Rows (...), pixel centres being integers. Autograd may follow the weights back to it.
        x: Columns (...).
        height: Of the maps; a tensor that broadcasts, or a number.
        width: Of the maps.

    Returns:
        Rows and columns (..., 4), int64, whether each is a pixel of the map, and its weight.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    weights = torch.stack(
        [(1 - below) * (1 - right), (1 - below) * right, below * (1 - right), below * right], -1
    )
    top, left = top.long(), left.long()
    rows = torch.stack([top, top, top + 1, top + 1], -1)
    columns = torch.stack([left, left + 1, left, left + 1], -1)
    if isinstance(height, Tensor):
        height = height[..., None]
    if isinstance(width, Tensor):
        width = width[..., None]
    there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return rows, columns, there & inside[..., None], weights


def bag_sums(
    table: Tensor, rows: Tensor, there: Tensor, weights: Tensor, first: Tensor | None = None
) -> Tensor:
    """Weighted sums of rows: (bags, C).

    Args:
        table: Rows, the last of which stands for none, (R + 1, C).
        rows: The rows of each bag (bags, entries), int64; or of one bag after the other (entries,).
        there: Whether to add an entry, of the same shape.
        weights: Of the same shape and of the table's dtype.
        first: Where each bag begins (bags,), if ``rows`` has one dimension.
    """
    none = table.shape[0] - 1
    rows = torch.where(there, rows, none)
    return F.embedding_bag(
        rows, table, first, mode='sum', per_sample_weights=weights, padding_idx=none
    )

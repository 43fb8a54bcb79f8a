"""Interpolation of what depends on the window's or the image's size."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """A relative position bias table for another window, as the official code resizes it.

    Args:
        table: ((2M - 1)², heads) of a square window of side M.
        rows: (2M' - 1)² of the wanted window M'.

    Returns:
        (rows, heads), in the dtype of ``table``, interpolated bicubically.
    """
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    grid = table.T.reshape(1, -1, old, old)
    return _bicubic(grid, (new, new)).reshape(-1, rows).T.contiguous()


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """An absolute position embedding for another grid.

    Args:
        embedding: (1, side², C) of a square grid.
        grid: (H, W) of the wanted grid.

    Returns:
        (1, H * W, C), in the dtype of ``embedding``, interpolated bicubically.
    """
    side = math.isqrt(embedding.shape[1])
    square = embedding.transpose(1, 2).unflatten(-1, (side, side))
    return _bicubic(square, grid).flatten(2).transpose(1, 2).contiguous()


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    # Half precision is interpolated in float32: not every device has a kernel for it.
    wide = x if x.element_size() >= 4 else x.float()
    return F.interpolate(wide, size=size, mode='bicubic').to(x.dtype)

"""Interpolation of what depends on the window's or the image's size."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError


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
        embedding: (1, side², C) of a square grid, or (1, C, rows, columns) of any.
        grid: (H, W) of the wanted grid.

    Returns:
        (1, H * W, C), in the dtype of ``embedding``, interpolated bicubically.
    """
    return as_sequence(_bicubic(as_map(embedding), grid)).contiguous()


def as_map(embedding: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """An absolute position embedding (1, H * W, C) as the map (1, C, H, W); a map as it is.

    Args:
        embedding: The embedding.
        grid: (H, W), needed where the positions are no square.

    Raises:
        CheckpointError: The grid is needed, or does not fit.
    """
    if embedding.dim() == 4:
        return embedding
    positions = embedding.shape[1]
    side = math.isqrt(positions)
    rows, columns = grid or (side, side)
    if rows * columns != positions:
        raise CheckpointError(
            f'absolute_pos_embed: {positions} positions are no grid of {rows}×{columns}; give '
            'the one that they are with source_grid=(rows, columns)'
        )
    return embedding.transpose(1, 2).unflatten(-1, (rows, columns))


def as_sequence(embedding: Tensor) -> Tensor:
    """An absolute position embedding (1, C, H, W) as (1, H * W, C); a sequence as it is."""
    return embedding if embedding.dim() == 3 else embedding.flatten(2).transpose(1, 2)


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    # Half precision is interpolated in float32: not every device has a kernel for it.
    wide = x if x.element_size() >= 4 else x.float()
    return F.interpolate(wide, size=size, mode='bicubic').to(x.dtype)

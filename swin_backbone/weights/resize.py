"""Interpolation of what depends on the window's or the image's size."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..argument_values import integer, shown
from ..errors import ArgumentError, CheckpointError
from .plain import form, is_plain

# Positions of an embedding: a thousand patches a side.
LARGEST_GRID = 2**20


def resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """A relative position bias table for another window, as the official code resizes it.

    Args:
        table: ((2M - 1)², heads) of a square window of side M.
        rows: (2M' - 1)² of the wanted window M'.

    Returns:
        (rows, heads), in the dtype of ``table``, interpolated bicubically.

    Raises:
        CheckpointError: It is no such table.
    """
    fits = is_plain(table) and table.dim() == 2 and table.numel() > 0
    if not fits or math.isqrt(len(table)) ** 2 != len(table):
        raise CheckpointError(
            f'relative_position_bias_table: found {form(table)}, which is of no square window'
        )
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
        CheckpointError: The grid is needed, or does not fit; or it is no embedding.
    """
    if not is_plain(embedding) or embedding.dim() not in (3, 4) or not embedding.numel():
        raise CheckpointError(f'absolute_pos_embed: found {form(embedding)}, not (1, H * W, C)')
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


def checked_grid(name: str, grid: Any) -> tuple[int, int] | None:
    """Rows and columns as given; None if not given.

    Raises:
        ArgumentError: They are no two positive ints, or more positions than a machine can hold.
    """
    if grid is None:
        return None
    if not isinstance(grid, list | tuple) or len(grid) != 2:
        raise ArgumentError(f'{name}={shown(grid)} must be (rows, columns)')
    rows, columns = (integer(name, side, 1, LARGEST_GRID) for side in grid)
    if rows * columns > LARGEST_GRID:
        raise ArgumentError(f'{name}={shown(grid)} has more than {LARGEST_GRID} positions')
    return rows, columns


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    if not x.is_floating_point() or not x.numel():
        raise CheckpointError(f'{form(x)} of {x.dtype} cannot be interpolated')
    # Half precision is interpolated in float32: not every device has a kernel for it.
    wide = x if x.element_size() >= 4 else x.float()
    return F.interpolate(wide, size=size, mode='bicubic').to(x.dtype)

"""Adapts weights to another window, image size or number of input channels."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..argument_values import integer, same, shown
from ..errors import ArgumentError, CheckpointError
from .tensors import is_dense, summary

PATCH_EMBEDDING = 'patch_embed.projection.weight'
CHANNEL_RULES = ('mean', 'repeat', 'zeros')
# Positions of an embedding: a thousand patches a side.
LARGEST_GRID = 2**20


def resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """Resizes a relative position bias table to another window, as the official code does.

    Args:
        table: ((2M - 1)², heads) of a square window of side M.
        rows: (2M' - 1)² for the new side M'.

    Returns:
        (rows, heads) in the dtype of ``table``, interpolated bicubically.

    Raises:
        CheckpointError: The table is invalid.
    """
    fits = is_dense(table) and table.dim() == 2 and table.numel() > 0
    if not fits or math.isqrt(len(table)) ** 2 != len(table):
        raise CheckpointError(
            f'relative_position_bias_table: found {summary(table)}, which is of no square window'
        )
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    grid = table.T.reshape(1, -1, old, old)
    return _bicubic(grid, (new, new)).reshape(-1, rows).T.contiguous()


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resizes an absolute position embedding to another grid.

    Args:
        embedding: (1, side², C) of a square grid, or (1, C, rows, columns) of any grid.
        grid: The new grid (H, W).

    Returns:
        (1, H * W, C) in the dtype of ``embedding``, interpolated bicubically.
    """
    return as_sequence(_bicubic(as_map(embedding), grid)).contiguous()


def as_map(embedding: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """An absolute position embedding (1, H * W, C) as a map (1, C, H, W), which is returned as is.

    Args:
        embedding: The embedding.
        grid: (H, W); required unless the grid is square.

    Raises:
        CheckpointError: The grid is required or does not fit, or the embedding is invalid.
    """
    if not is_dense(embedding) or embedding.dim() not in (3, 4) or not embedding.numel():
        raise CheckpointError(f'absolute_pos_embed: found {summary(embedding)}, not (1, H * W, C)')
    if embedding.dim() == 4:
        return embedding
    positions = embedding.shape[1]
    side = math.isqrt(positions)
    rows, columns = grid or (side, side)
    if rows * columns != positions:
        raise CheckpointError(
            f'absolute_pos_embed: {positions} positions are no grid of {rows}×{columns}; give '
            'their grid with source_grid=(rows, columns)'
        )
    return embedding.transpose(1, 2).unflatten(-1, (rows, columns))


def as_sequence(embedding: Tensor) -> Tensor:
    """An absolute position embedding (1, C, H, W) as (1, H * W, C), which is returned as is."""
    return embedding if embedding.dim() == 3 else embedding.flatten(2).transpose(1, 2)


def checked_grid(name: str, grid: Any) -> tuple[int, int] | None:
    """Rows and columns of a grid; None for None.

    Raises:
        ArgumentError: They are not two positive ints, or too many positions.
    """
    if grid is None:
        return None
    if not isinstance(grid, list | tuple) or len(grid) != 2:
        raise ArgumentError(f'{name}={shown(grid)} must be (rows, columns)')
    rows, columns = (integer(name, side, 1, LARGEST_GRID) for side in grid)
    if rows * columns > LARGEST_GRID:
        raise ArgumentError(f'{name}={shown(grid)} has more than {LARGEST_GRID} positions')
    return rows, columns


def adapt_input_channels(weight: Tensor, channels: int, rule: str) -> Tensor:
    """Adapts the weight W of a patch embedding from C to C' = ``channels`` inputs.

    Rules:
        ``'mean'``: W'[:, c] = (C / C') · mean over k of W[:, k]. All channels count alike. For one
        channel W' is the sum of W, so that a gray image gives the result of its RGB copy.

        ``'repeat'``: W'[:, c] = (C / C') · W[:, c mod C]. The old weights are repeated; the factor
        keeps the magnitude of the sum.

        ``'zeros'``: W'[:, c] = W[:, c] for c < C, else 0. The first channels keep their meaning and
        the others contribute nothing before training. C' must not be less than C.

    Args:
        weight: (embed_dims, C, height, width).
        channels: C'.
        rule: One of ``CHANNEL_RULES``.

    Returns:
        (embed_dims, C', height, width) in the dtype of ``weight``; ``weight`` itself if C' is C.

    Raises:
        ArgumentError: An unknown rule, or ``'zeros'`` for fewer channels.
        CheckpointError: The weight is invalid.
    """
    if not any(same(rule, known) for known in CHANNEL_RULES):
        raise ArgumentError(
            f'unknown rule in_channels={shown(rule)}; it is one of {", ".join(CHANNEL_RULES)}'
        )
    if not is_dense(weight) or weight.dim() != 4 or not weight.numel():
        raise CheckpointError(
            f'{PATCH_EMBEDDING}: found {summary(weight)}, not (embed_dims, C, height, width)'
        )
    if not weight.is_floating_point():
        raise CheckpointError(f'{PATCH_EMBEDDING}: found {weight.dtype}, not floating point')
    old = weight.shape[1]
    if channels == old:
        return weight
    if rule == 'mean':
        mean = weight.mean(dim=1, keepdim=True) * (old / channels)
        return mean.repeat(1, channels, 1, 1)
    if rule == 'repeat':
        order = [c % old for c in range(channels)]
        return weight[:, order] * (old / channels)
    if channels < old:
        raise ArgumentError(
            f"in_channels='zeros' adds channels, but the model has {channels} and the file {old}; "
            "use 'mean' or 'repeat'"
        )
    extended = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    extended[:, :old] = weight
    return extended


def check_input_channels(weight: Tensor, wanted: tuple[int, ...]) -> None:
    """Rejects a patch embedding that differs from a model's only in its input channels.

    Args:
        weight: (embed_dims, C, height, width).
        wanted: Shape of the model's weight.

    Raises:
        CheckpointError: The message names the option that adapts the weight.
    """
    found = tuple(weight.shape)
    if len(found) == 4 and found[1] != wanted[1] and found == (wanted[0], found[1], *wanted[2:]):
        rules = ', '.join(repr(rule) for rule in CHANNEL_RULES)
        raise CheckpointError(
            f'{PATCH_EMBEDDING} is for {found[1]} input channels, the model has {wanted[1]}; adapt '
            f"it with init_cfg=dict(type='Pretrained', checkpoint=…, in_channels=…), one of {rules}"
        )


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    if not x.is_floating_point() or not x.numel():
        raise CheckpointError(f'{summary(x)} of {x.dtype} cannot be interpolated')
    # Not every device has a kernel for half precision.
    wide = x if x.element_size() >= 4 else x.float()
    return F.interpolate(wide, size=size, mode='bicubic').to(x.dtype)

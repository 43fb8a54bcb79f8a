"""Relative positions of the tokens of a window, and the bias that belongs to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_position_index(window_size: int | tuple[int, int]) -> Tensor:
    """Row of the bias table for each pair of tokens of a window (section 3.2, after equation 4).

    Args:
        window_size: Side of the window in tokens, or (height, width).

    Returns:
        int64 (N, N) for a window of N tokens. The entry of query i and key j is their offset in
        rows and columns, each shifted to start at 0, as one raster index.
    """
    pair = window_size if isinstance(window_size, tuple | list) else (window_size, window_size)
    height, width = pair
    row, column = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    rows = row[:, None] - row + height - 1
    columns = column[:, None] - column + width - 1
    return rows * (2 * width - 1) + columns


def bias_of_pairs(table: Tensor, window_size: int) -> Tensor:
    """Expands the bias of each offset to the bias of each pair of tokens of a window.

    The result equals indexing with :func:`relative_position_index` bit for bit, but the gradient is
    a sum of a few diagonals instead of a sorted scatter.

    Args:
        table: (heads, 2M - 1, 2M - 1).
        window_size: M.

    Returns:
        (heads, M², M²).
    """
    # (heads, rows, columns, M, M) reads the table from the window's last token backwards; the flip
    # makes the only copy.
    pairs = table.unfold(1, window_size, 1).unfold(2, window_size, 1).flip(3, 4)
    return pairs.reshape(len(table), window_size**2, window_size**2)


def log_spaced_coordinates(
    window_size: int, pretrained_window_size: int, device: torch.device
) -> Tensor:
    """Offsets of two tokens of a window as inputs of V2's position network (V2, equation 4).

    Offsets are divided by the largest offset of the pretraining window, so that they are at most 1
    there, multiplied by 8, and mapped to a logarithmic scale.

    Args:
        window_size: M.
        pretrained_window_size: Side of the window in pretraining; 0 if it was M.
        device: Device of the result.

    Returns:
        float32 ((2M - 1)², 2): rows and columns, in raster order.
    """
    axis = torch.arange(1 - window_size, window_size, dtype=torch.float32, device=device)
    # A window of one token has only the offset 0.
    axis = axis / max((pretrained_window_size or window_size) - 1, 1) * 8
    axis = axis.sign() * torch.log2(axis.abs() + 1.0) / math.log2(8)
    length = len(axis)
    return torch.stack([axis.repeat_interleave(length), axis.repeat(length)], -1)

"""Attention weights within the windows of a block, computed from the block's input.

The weights are softmax(q·k·scale + bias + mask), as defined in
:mod:`swin_backbone.ops.window_attention.reference`, but only for the requested windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...layers import SwinBlock, SwinBlockV2, WindowMSAV2
from ...ops.window_attention.reference import MASKED, pad_to_windows

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TokenAttention:
    """The attention of one token.

    Attributes:
        weights: The weights of the tokens of its window, float32 (heads, M, M); they sum to 1 for
            each head.
        rows: The rows of the padded map in the window, (M,). Because of the cyclic shift, a window
            at the end of the map continues at its beginning.
        columns: The columns of the padded map in the window, (M,).
        grid: (H, W) of the map; rows from H and columns from W on are padding.
        query: (row, column) of the token.
        shift: The shift of the windows in tokens.
    """

    weights: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    grid: tuple[int, int]
    query: tuple[int, int]
    shift: int

    @property
    def mean(self) -> np.ndarray:
        """The mean over the heads, (M, M)."""
        return self.weights.mean(0)

    @property
    def padded(self) -> float:
        """The share of attention on padding, as a mean over heads."""
        height, width = self.grid
        outside = (self.rows[:, None] >= height) | (self.columns >= width)
        return float(self.mean[outside].sum())

    @property
    def size(self) -> int:
        """The side M of the window."""
        return len(self.rows)

    def pieces(self) -> list[Box]:
        """The connected parts of the window on the padded map, up to four; the token's own first.

        Each is (first row, row after the last, first column, column after the last). The mask of
        the cyclic shift limits the attention of a token to its own part.
        """
        found = [(*down, *across) for down in _runs(self.rows) for across in _runs(self.columns)]
        row, column = self.query
        return sorted(
            found, key=lambda box: not (box[0] <= row < box[1] and box[2] <= column < box[3])
        )


class BlockAttention:
    """The attention within the windows of a block.

    Args:
        block: A block of V1 or V2.
        tokens: The input of the block, (1, H * W, C).
        grid: (H, W).

    Attributes:
        window_size: The side M of the windows on this map, in tokens.
        shift: The shift of the windows in tokens.
        values: The values of the padded map, (H', W', heads, C / heads).
    """

    @torch.no_grad()
    def __init__(
        self, block: SwinBlock | SwinBlockV2, tokens: Tensor, grid: tuple[int, int]
    ) -> None:
        attention = block.attn
        self.grid = grid
        self.window_size, self.shift = attention.windows(grid)
        msa = attention.w_msa
        # V1 normalises before the attention, V2 after it.
        x = tokens if isinstance(msa, WindowMSAV2) else block.norm1(tokens)
        qkv, padding = msa.project_map(x.unflatten(1, grid), self.window_size)
        qkv = pad_to_windows(qkv, self.window_size, padding)
        self.padded_grid = qkv.shape[1], qkv.shape[2]
        self._queries, self._keys, self.values = (
            # (1, heads, H' * W', d) -> (H', W', heads, d)
            x[0].transpose(0, 1).unflatten(0, self.padded_grid)
            for x in msa.heads(qkv.flatten(1, 2))
        )
        self._bias = msa.relative_position_bias(self.window_size)

    def at(self, row: int, column: int) -> TokenAttention:
        """The attention of a token of the map."""
        window, query = self.window_of(row, column)
        rows, columns = self.places(window)
        weights = self.weights(window)[:, query].unflatten(-1, (self.window_size,) * 2)
        return TokenAttention(
            weights.float().cpu().numpy(),
            rows,
            columns,
            self.grid,
            (row, column),
            self.shift,
        )

    def window_of(self, row: int, column: int) -> tuple[tuple[int, int], int]:
        """The window of a token, as (row, column) among windows, and the token's index in it."""
        down, across = (
            (place - self.shift) % length
            for place, length in zip((row, column), self.padded_grid, strict=True)
        )
        size = self.window_size
        return (down // size, across // size), down % size * size + across % size

    def places(self, window: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a window's tokens on the padded map."""
        rows, columns = (
            (i * self.window_size + np.arange(self.window_size) + self.shift) % length
            for i, length in zip(window, self.padded_grid, strict=True)
        )
        return rows, columns

    @torch.no_grad()
    def weights(self, window: tuple[int, int]) -> Tensor:
        """The weights of a window, (heads, queries M², keys M²)."""
        rows, columns = self.places(window)
        queries, keys = (
            # (M, M, heads, d) -> (heads, M², d)
            x[rows[:, None], columns].flatten(0, 1).transpose(0, 1)
            for x in (self._queries, self._keys)
        )
        scores = queries @ keys.transpose(1, 2) + self._bias
        if self.shift:
            regions = (3 * self._region(window, 0)[:, None] + self._region(window, 1)).flatten()
            apart = regions[:, None] != regions
            scores = scores + MASKED * apart.to(scores)
        return scores.softmax(-1)

    def _region(self, window: tuple[int, int], axis: int) -> Tensor:
        """The region, 0 to 2, of a window's tokens along an axis; the mask separates regions."""
        position = torch.arange(self.window_size) + window[axis] * self.window_size
        length = self.padded_grid[axis]
        return (position >= length - self.window_size).long() + (position >= length - self.shift)


def _runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, each as (first, last + 1)."""
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(places, cuts)]

"""The attention of a block's windows, from what really went into the block.

The weights are softmax(q·k·scale + bias + mask), the definition that
:mod:`swin_backbone.ops.window_attention.reference` has, for the windows that are asked for alone.
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
    """What one token attends to.

    Attributes:
        weights: For each head, of the tokens of its window: float32 (heads, M, M); a head's sum is
            1.
        rows: Where the window's rows lie on the padded map, (M,): a shifted window at the map's
            end goes on at its beginning, as the cyclic shift has it.
        columns: The same of its columns.
        grid: (H, W) of the map; rows from H and columns from W on are padding.
        query: (row, column) of the token.
        shift: How far the windows are shifted, in tokens.
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
        """Share of the attention, over all heads, that goes to padding."""
        height, width = self.grid
        outside = (self.rows[:, None] >= height) | (self.columns >= width)
        return float(self.mean[outside].sum())

    @property
    def size(self) -> int:
        """Side M of the window."""
        return len(self.rows)

    def pieces(self) -> list[Box]:
        """The window's parts on the padded map, up to four, that with the token first.

        Each as first row, row after the last, first column, column after the last. A token sees
        its own part alone: the others have come in by the cyclic shift, and are masked.
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
        tokens: What goes into it, (1, H * W, C).
        grid: (H, W).

    Attributes:
        window_size: Side M of the windows on this map, in tokens.
        shift: Their shift.
        values: Of the padded map, (H', W', heads, C / heads).
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
        """The window of a token, by row and column among the windows; the token's index in it."""
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
        """Of a window's tokens on each other: (heads, M², M²), queries before keys."""
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
        """Which of the three regions of the shifted map's axis a window's tokens are in."""
        position = torch.arange(self.window_size) + window[axis] * self.window_size
        length = self.padded_grid[axis]
        return (position >= length - self.window_size).long() + (position >= length - self.shift)


def _runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, after the last)."""
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(places, cuts)]

"""Windows of a feature map as row indices, so that no padded or rolled copy is made.

A map (B, H, W, C) is a table of B * H * W rows, and a window is M² of these rows. A tile is a run
of consecutive windows. It is small enough that intermediate results stay in the cache of a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Tokens of a tile. Matrix products need about as many for full speed; more do not fit the cache.
TOKENS = 2048


class Tile(NamedTuple):
    """A run of n windows.

    Attributes:
        rows: int64 (n * M²,), the row of each token in the map; 0 for padded tokens.
        real: bool (n * M²,), False for padded tokens; None if no token is padded.
        mask: (n, M², M²), added to the scores; None if the shift cuts no window of the tile.
    """

    rows: Tensor
    real: Tensor | None
    mask: Tensor | None


def window_tiles(
    size: tuple[int, int, int], window_size: int, shift_size: int, masks: Tensor | None
) -> Iterator[Tile]:
    """Yields the windows of a shifted map in raster order, in tiles of at most ``TOKENS`` tokens.

    Args:
        size: (B, H, W) of the map.
        window_size: Side M of a window.
        shift_size: Cyclic shift of the padded map, below M.
        masks: The result of :func:`edge_masks`; not used if ``shift_size`` is 0.
    """
    B, H, W = size
    if B == 0:
        return
    row, column = (_sources(length, window_size, shift_size) for length in (H, W))
    kinds = _edge(len(row))[:, None] * 2 + _edge(len(column))
    # (vertical windows, horizontal windows, M, M), repeated for every image.
    rows = row[:, None, :, None] * W + column[:, None, :]
    rows = rows.masked_fill((row >= H)[:, None, :, None] | (column >= W)[:, None, :], -1)
    rows = rows.view(1, -1) + (torch.arange(B) * H * W)[:, None] * (rows >= 0).view(1, -1)
    rows, kinds = rows.view(-1, window_size**2), kinds.flatten().repeat(B)
    padded = bool(H % window_size or W % window_size)
    for part, kind in _runs(rows, kinds, max(TOKENS // window_size**2, 1)):
        part = part.flatten()
        real = part >= 0 if padded and bool((part < 0).any()) else None
        cut = shift_size > 0 and bool(kind.any())
        yield Tile(part.clamp(min=0), real, masks[kind] if cut and masks is not None else None)


def edge_masks(window_size: int, shift_size: int, masked: float, like: Tensor) -> Tensor:
    """Attention masks of the windows that the cyclic shift cuts.

    Returns:
        (4, M², M²) in the dtype of ``like``: the masks of a window inside the map, in its last
        column, in its last row, and in its corner. 0 if two tokens belong to one region, else
        ``masked``.
    """
    wrapped = (torch.arange(window_size) >= window_size - shift_size).long()
    still = torch.zeros_like(wrapped)
    regions = torch.stack(
        [(2 * down[:, None] + across).flatten() for down in (still, wrapped)
         for across in (still, wrapped)]
    )  # fmt: skip
    apart = regions[:, :, None] != regions[:, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype).masked_fill(apart, masked)


def _sources(length: int, window_size: int, shift_size: int) -> Tensor:
    """The original position of each position of the shifted, padded axis, (windows, M)."""
    padded = -(-length // window_size) * window_size
    return ((torch.arange(padded) + shift_size) % padded).view(-1, window_size)


def _edge(windows: int) -> Tensor:
    return (torch.arange(windows) == windows - 1).long()


def _runs(rows: Tensor, kinds: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Splits both tensors into runs of nearly equal length, at most ``most``."""
    count = -(-len(rows) // most)
    length = -(-len(rows) // count)
    yield from zip(rows.split(length), kinds.split(length), strict=True)

"""Windows of a feature map as rows of indices: padding and shift without a padded or rolled copy.

A map (B, H, W, C) is a table of B * H * W rows. Each window is M² of them, and a tile is a run of
windows that is small enough for what is computed on it to stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Tokens of a tile: enough for matrix products at full speed; much more spills out of the cache.
TOKENS = 2048


class Tile(NamedTuple):
    """A run of n windows.

    Attributes:
        rows: int64 (n * M²,), each token's row of the map; 0 for padded tokens.
        real: bool (n * M²,), False for padded tokens; None where there are none.
        mask: (n, M², M²) to add to the scores; None where no window is cut by the shift.
    """

    rows: Tensor
    real: Tensor | None
    mask: Tensor | None


def window_tiles(
    size: tuple[int, int, int], window_size: int, shift_size: int, masks: Tensor | None
) -> Iterator[Tile]:
    """The windows of a map, shifted up and left, in raster order and runs of ``TOKENS`` tokens.

    Args:
        size: (B, H, W) of the map.
        window_size: Side M of a window.
        shift_size: Cyclic shift of the padded map, below M.
        masks: The four of :func:`edge_masks`; not used without a shift.
    """
    B, H, W = size
    if B == 0:
        return
    row, column = (_sources(length, window_size, shift_size) for length in (H, W))
    kinds = _edge(len(row))[:, None] * 2 + _edge(len(column))
    # (windows down, windows across, M, M), then the same for every image.
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
    """What keeps tokens apart that only the cyclic shift has brought into one window.

    Returns:
        (4, M², M²): for a window inside the map, in its last column, in its last row, in its
        corner: 0 where two tokens are of one region, else ``masked``. Dtype of ``like``.
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
    """Where each position of the shifted, padded axis comes from: (windows, M)."""
    padded = -(-length // window_size) * window_size
    return ((torch.arange(padded) + shift_size) % padded).view(-1, window_size)


def _edge(windows: int) -> Tensor:
    return (torch.arange(windows) == windows - 1).long()


def _runs(rows: Tensor, kinds: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both cut into runs of equal length, ``most`` at most."""
    count = -(-len(rows) // most)
    length = -(-len(rows) // count)
    yield from zip(rows.split(length), kinds.split(length), strict=True)

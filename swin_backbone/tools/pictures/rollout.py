"""Attention rollout: the contribution of each token of the first stage to a token of a later one.

Source: Abnar and Zuidema (arXiv:2005.00928), section 3. A layer mixes tokens by ½ (A + I), where A
is the attention, averaged over heads, and I the residual connection; the matrices of the layers are
multiplied. Windows, padding and patch merging are handled as follows:

- A is zero between tokens of different windows. Within a window, it is the softmax that the block
  computes, including the mask of shifted windows.
- Padded tokens have no content: the shares of attention on them are removed and summed up.
- A merged token consists of its tokens that are not padding, in equal shares.
- Operations on individual tokens (feed-forward networks, norms) do not mix tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...layers.block import Grid
from ...ops.sizes import ceil_div
from ...swin import SwinTransformer
from .attention import BlockAttention
from .observation import Place


@dataclass(frozen=True)
class Rollout:
    """The contributions of the first stage's tokens.

    Attributes:
        shares: The share of each token, float64 (H, W); together with ``padded``, they sum to 1.
        padded: The share of attention on padding.
    """

    shares: np.ndarray
    padded: float


def places(backbone: SwinTransformer, stage: int, block: int) -> list[Place]:
    """All blocks up to the given one; :func:`rollout` needs their inputs."""
    depths = [len(backbone.stages[i].blocks) for i in range(stage)] + [block + 1]
    return [(i, b) for i, depth in enumerate(depths) for b in range(depth)]


@torch.no_grad()
def rollout(
    backbone: SwinTransformer,
    tokens: Mapping[Place, tuple[Tensor, Grid]],
    size: Grid,
    stage: int,
    block: int,
    start: Tensor,
) -> list[Rollout]:
    """Traces tokens after a block back to the first stage.

    Args:
        backbone: A backbone in evaluation mode.
        tokens: The inputs of all blocks in :func:`places`: tokens (1, H * W, C) and (H, W).
        size: (height, width) of the backbone's input in pixels.
        stage, block: The block.
        start: K weighted sums of the block's output tokens, (K, H, W), with weights that sum to 1.

    Returns:
        A rollout for each of the K sums.
    """
    shares = start.double().cpu()
    padded = torch.zeros(len(shares), dtype=torch.float64)
    for i in range(stage, -1, -1):
        blocks = backbone.stages[i].blocks
        if i < stage:
            shares = _through_merging(_merging(backbone, i), shares, grid_of(backbone, size, i))
        for b in reversed(range(block + 1 if i == stage else len(blocks))):
            shares, lost = _through_block(BlockAttention(blocks[b], *tokens[i, b]), shares)
            padded += lost
    return [Rollout(s.numpy(), float(lost)) for s, lost in zip(shares, padded, strict=True)]


def grid_of(backbone: SwinTransformer, size: Grid, stage: int) -> Grid:
    """(H, W) of a stage's tokens for an input of ``size`` pixels."""
    height, width = (
        ceil_div(*both) for both in zip(size, backbone.token_sides[stage], strict=True)
    )
    return height, width


def _through_block(attention: BlockAttention, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Maps shares (K, H, W) of a block's outputs to those of its inputs and of padding, (K,)."""
    (height, width), size = attention.grid, attention.window_size
    padded = shares.new_zeros(len(shares), *attention.padded_grid)
    padded[:, :height, :width] = shares
    received = torch.zeros_like(padded)
    down, across = (length // size for length in attention.padded_grid)
    for window in ((i, j) for i in range(down) for j in range(across)):
        rows, columns = map(torch.from_numpy, attention.places(window))
        held = padded[:, rows[:, None], columns]
        if held.any():  # for a single token, few windows
            weights = attention.weights(window).mean(0).double().cpu()
            received[:, rows[:, None], columns] = (held.flatten(1) @ weights).view_as(held)
    attended = received[:, :height, :width]
    lost = received.sum((1, 2)) - attended.sum((1, 2))
    return (shares + attended) / 2, lost / 2


def _merging(backbone: SwinTransformer, stage: int) -> Any:
    """The patch merging after a stage."""
    return backbone.stages[stage + backbone.merging_opens_stage].downsample


def _through_merging(merging: Any, shares: Tensor, grid: Grid) -> Tensor:
    """Maps shares (K, H', W') of merged tokens to those of the tokens before, (K, H, W)."""
    sampler = merging.sampler
    rows, columns = (
        _parts(merged, length, *(getattr(sampler, name)[axis] for name in _SAMPLED))
        for axis, (merged, length) in enumerate(zip(shares.shape[1:], grid, strict=True))
    )
    return rows.t() @ shares @ columns


_SAMPLED = ('kernel_size', 'stride', 'dilation')


def _parts(merged: int, length: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """(merged, length): the share of each position along an axis in each merged position."""
    found = torch.zeros(merged, length, dtype=torch.float64)
    for offset in range(0, kernel * dilation, dilation):
        place = torch.arange(merged) * stride + offset
        inside = place < length  # beyond is padding
        found[inside, place[inside]] = 1
    return found / found.sum(1, keepdim=True)

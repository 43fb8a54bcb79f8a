"""Weights of Swin Transformer V2 with the names and shapes of the official release's files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GEOMETRY = dict(embed_dims=24, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4), window_size=4)


def random_state_dict(
    windows: Sequence[int] = (4, 4, 4, 4),
    pretrained: Sequence[int] = (0, 0, 0, 0),
    classification: bool = True,
    extra_norms: int = 0,
    ape: Tensor | None = None,
) -> dict[str, Tensor]:
    """Random float64 weights of ``GEOMETRY``, and the buffers of the windows.

    Args:
        windows: Side of each stage's windows.
        pretrained: That of the pretraining, where it was another.
        classification: Whether there are a last norm and a classifier, or norms of the outputs.
        extra_norms: Every so many blocks have a third norm.
        ape: An absolute position embedding.
    """
    sd = _layer('patch_embed.proj', 24, 3, 4, 4) | _norm('patch_embed.norm', 24)
    sd |= {} if ape is None else {'absolute_pos_embed': ape}
    for i, depth in enumerate(GEOMETRY['depths']):
        C, heads = 24 * 2**i, GEOMETRY['num_heads'][i]
        for j in range(depth):
            at = f'layers.{i}.blocks.{j}'
            sd |= _norm(f'{at}.norm1', C) | _norm(f'{at}.norm2', C)
            sd |= _norm(f'{at}.enorm', C) if extra_norms and (j + 1) % extra_norms == 0 else {}
            sd |= _attention(f'{at}.attn', C, heads, windows[i], pretrained[i])
            sd |= _layer(f'{at}.mlp.fc1', 4 * C, C) | _layer(f'{at}.mlp.fc2', C, 4 * C)
        if i < 3:
            sd[f'layers.{i}.downsample.reduction.weight'] = _draw(2 * C, 4 * C)
            sd |= _norm(f'layers.{i}.downsample.norm', 2 * C)
        sd |= {} if classification else _norm(f'norm{i}', C)
    return sd | _norm('norm', C) | _layer('head', 10, C) if classification else sd


def coordinates(window: int, pretrained: int = 0) -> Tensor:
    """The table (1, 2M - 1, 2M - 1, 2) of the official code, element by element."""
    farthest = (pretrained or window) - 1
    axis = []
    for distance in range(1 - window, window):
        value = math.log2(1 + 8 * abs(distance) / farthest) / 3
        axis.append(math.copysign(value, distance) if distance else 0.0)
    return torch.tensor([[[[r, c] for c in axis] for r in axis]])


def _attention(at: str, C: int, heads: int, window: int, pretrained: int) -> dict[str, Tensor]:
    return {
        f'{at}.logit_scale': 2 + _draw(heads, 1, 1),
        f'{at}.q_bias': _draw(C),
        f'{at}.v_bias': _draw(C),
        f'{at}.relative_coords_table': coordinates(window, pretrained),
        f'{at}.relative_position_index': torch.zeros(window**2, window**2, dtype=torch.long),
        f'{at}.cpb_mlp.0.weight': _draw(512, 2),
        f'{at}.cpb_mlp.0.bias': _draw(512),
        f'{at}.cpb_mlp.2.weight': _draw(heads, 512),
        f'{at}.qkv.weight': _draw(3 * C, C),
        **_layer(f'{at}.proj', C, C),
    }


def _layer(name: str, out: int, *into: int) -> dict[str, Tensor]:
    return {f'{name}.weight': _draw(out, *into), f'{name}.bias': _draw(out)}


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f'{name}.weight': 1 + _draw(width), f'{name}.bias': _draw(width)}


def _draw(*shape: int) -> Tensor:
    return 0.2 * torch.randn(*shape, dtype=torch.float64)

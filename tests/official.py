"""Swin Transformer as the official detection code defines it, over a state dict in its layout.

Functional, slow and explicit, written for the tests alone and sharing nothing with the package: it
pads before the projection, builds the mask by slices, and merges patches in the official order.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor
from torch.nn import functional as F


def random_state_dict(
    embed_dim: int = 16,
    depths: tuple[int, ...] = (2, 2, 2, 2),
    num_heads: tuple[int, ...] = (1, 2, 4, 8),
    window: int = 4,
    ape_grid: tuple[int, int] | None = None,
    classification: bool = False,
) -> dict[str, Tensor]:
    """Random float64 weights with the names and shapes of the official release's files."""

    def draw(*shape: int) -> Tensor:
        return 0.2 * torch.randn(*shape, dtype=torch.float64)

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f'{name}.weight': 1 + draw(width), f'{name}.bias': draw(width)}

    sd = {
        'patch_embed.proj.weight': draw(embed_dim, 3, 4, 4),
        'patch_embed.proj.bias': draw(embed_dim),
    }
    sd |= norm('patch_embed.norm', embed_dim)
    if ape_grid:
        tokens = ape_grid[0] * ape_grid[1]
        shape = (1, tokens, embed_dim) if classification else (1, embed_dim, *ape_grid)
        sd['absolute_pos_embed'] = draw(*shape)
    for i, depth in enumerate(depths):
        C = embed_dim * 2**i
        for j in range(depth):
            at = f'layers.{i}.blocks.{j}'
            sd |= norm(f'{at}.norm1', C) | norm(f'{at}.norm2', C)
            sd[f'{at}.attn.relative_position_bias_table'] = draw(
                (2 * window - 1) ** 2, num_heads[i]
            )
            sd[f'{at}.attn.relative_position_index'] = torch.zeros(
                window**2, window**2, dtype=torch.long
            )
            for name, (out, into) in {
                'attn.qkv': (3 * C, C),
                'attn.proj': (C, C),
                'mlp.fc1': (4 * C, C),
                'mlp.fc2': (C, 4 * C),
            }.items():
                sd[f'{at}.{name}.weight'], sd[f'{at}.{name}.bias'] = draw(out, into), draw(out)
            if classification and j % 2:
                sd[f'{at}.attn_mask'] = draw(4, window**2, window**2)
        if i < len(depths) - 1:
            sd |= norm(f'layers.{i}.downsample.norm', 4 * C)
            sd[f'layers.{i}.downsample.reduction.weight'] = draw(2 * C, 4 * C)
        if not classification:
            sd |= norm(f'norm{i}', C)
    if classification:
        sd |= norm('norm', C)
        sd['head.weight'], sd['head.bias'] = draw(10, C), draw(10)
    return sd


def forward(
    sd: dict[str, Tensor], x: Tensor, window: int, classification: bool = False
) -> list[Tensor]:
    """The feature maps (B, C, H, W) of every stage, normed where the state dict has the norm.

    The code for classification shrinks the window to a map that is no larger, and does not shift.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        weight = sd.get(f'{name}.weight')
        return x if weight is None else F.layer_norm(x, weight.shape, weight, sd[f'{name}.bias'])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, sd[f'{name}.weight'], sd.get(f'{name}.bias'))

    x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    x = F.conv2d(x, sd['patch_embed.proj.weight'], sd['patch_embed.proj.bias'], stride=4)
    x = norm(x.permute(0, 2, 3, 1), 'patch_embed.norm')
    if 'absolute_pos_embed' in sd:
        ape = F.interpolate(sd['absolute_pos_embed'], size=x.shape[1:3], mode='bicubic')
        x = x + ape.permute(0, 2, 3, 1)

    outs = []
    stages = 1 + max(int(m[1]) for k in sd if (m := re.match(r'layers\.(\d+)', k)))
    for i in range(stages):
        blocks = {int(m[1]) for k in sd if (m := re.match(rf'layers\.{i}\.blocks\.(\d+)', k))}
        for j in sorted(blocks):
            at = f'layers.{i}.blocks.{j}'
            M, shift = window, window // 2 if j % 2 else 0
            if classification and min(x.shape[1:3]) <= window:
                M, shift = min(x.shape[1:3]), 0
            x = x + _attention(norm(x, f'{at}.norm1'), sd, f'{at}.attn', M, shift)
            hidden = F.gelu(linear(norm(x, f'{at}.norm2'), f'{at}.mlp.fc1'))
            x = x + linear(hidden, f'{at}.mlp.fc2')
        outs.append(norm(x, f'norm{i}').permute(0, 3, 1, 2))
        if i < stages - 1:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = norm(torch.cat(corners, -1), f'layers.{i}.downsample.norm')
            x = linear(x, f'layers.{i}.downsample.reduction')
    return outs


def _attention(x: Tensor, sd: dict[str, Tensor], at: str, M: int, shift: int) -> Tensor:
    table = sd[f'{at}.relative_position_bias_table']
    heads, reach = table.shape[1], math.isqrt(len(table)) // 2
    _, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % M, 0, -H % M))
    qkv = F.linear(x, sd[f'{at}.qkv.weight'], sd[f'{at}.qkv.bias'])
    qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
    region = torch.zeros(x.shape[1:3])
    if shift:
        cuts = (slice(0, -M), slice(-M, -shift), slice(-shift, None))
        for n, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
            region[rows, columns] = n

    bias = torch.empty(heads, M * M, M * M, dtype=x.dtype)
    tokens = [(r, c) for r in range(M) for c in range(M)]
    for a, (ra, ca) in enumerate(tokens):
        for b, (rb, cb) in enumerate(tokens):
            bias[:, a, b] = table[(ra - rb + reach) * (2 * reach + 1) + ca - cb + reach]

    out = torch.empty_like(x)
    for top in range(0, x.shape[1], M):
        for left in range(0, x.shape[2], M):
            here = (slice(None), slice(top, top + M), slice(left, left + M))
            q, k, v = qkv[here].flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            scores = (q * (C // heads) ** -0.5) @ k.mT + bias
            label = region[here[1:]].flatten()
            scores = scores - 100.0 * (label[:, None] != label).to(scores)
            window = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            out[here] = window.unflatten(1, (M, M))
    out = torch.roll(out, (shift, shift), (1, 2))[:, :H, :W]
    return F.linear(out, sd[f'{at}.proj.weight'], sd[f'{at}.proj.bias'])

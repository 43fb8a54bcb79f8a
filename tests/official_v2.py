"""Swin Transformer V2 as its official release defines it, over a state dict in OpenMMLab's names.

Functional, slow and explicit, written for the tests alone and sharing nothing with the package: it
pads before the projection, builds the mask by slices, reads the position bias pair by pair, and
merges patches with ``F.unfold``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(
    sd: dict[str, Tensor], x: Tensor, windows: Sequence[int], pretrained: Sequence[int] = (0,) * 4
) -> list[Tensor]:
    """The normed feature maps (B, C, H, W) of every stage.

    Where a map's smaller side is no larger than the window, the window shrinks to it, and nothing
    is shifted.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        weight = sd.get(f'{name}.weight')
        return x if weight is None else F.layer_norm(x, weight.shape, weight, sd[f'{name}.bias'])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, sd[f'{name}.weight'], sd.get(f'{name}.bias'))

    x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
    weight, bias = (sd[f'patch_embed.projection.{name}'] for name in ('weight', 'bias'))
    x = norm(F.conv2d(x, weight, bias, stride=4).permute(0, 2, 3, 1), 'patch_embed.norm')

    outs = []
    stages = 1 + max(int(m[1]) for k in sd if (m := re.match(r'stages\.(\d+)', k)))
    for i in range(stages):
        if i:
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            size = (x.shape[1] // 2, x.shape[2] // 2)
            x = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).mT
            x = norm(linear(x, f'stages.{i}.downsample.reduction'), f'stages.{i}.downsample.norm')
            x = x.unflatten(1, size)
        blocks = {int(m[1]) for k in sd if (m := re.match(rf'stages\.{i}\.blocks\.(\d+)', k))}
        for j in sorted(blocks):
            at = f'stages.{i}.blocks.{j}'
            M, shift = windows[i], windows[i] // 2 if j % 2 else 0
            if min(x.shape[1:3]) <= M:
                M, shift = min(x.shape[1:3]), 0
            attended = attention(x, sd, f'{at}.attn.w_msa', M, shift, pretrained[i])
            x = x + norm(attended, f'{at}.norm1')
            hidden = F.gelu(linear(x, f'{at}.ffn.layers.0.0'))
            x = x + norm(linear(hidden, f'{at}.ffn.layers.1'), f'{at}.norm2')
            x = norm(x, f'{at}.norm3')
        outs.append(norm(x, f'norm{i}').permute(0, 3, 1, 2))
    return outs


def attention(
    x: Tensor, sd: dict[str, Tensor], at: str, M: int, shift: int, pretrained: int
) -> Tensor:
    """Shifted-window attention of a map (B, H, W, C), with the weights that are under ``at``."""
    logit_scale = sd[f'{at}.logit_scale']
    heads = len(logit_scale)
    _, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % M, 0, -H % M))
    qkv_bias = None
    if f'{at}.q_bias' in sd:
        qkv_bias = torch.cat([sd[f'{at}.q_bias'], x.new_zeros(C), sd[f'{at}.v_bias']])
    qkv = F.linear(x, sd[f'{at}.qkv.weight'], qkv_bias)
    qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
    region = torch.zeros(x.shape[1:3])
    if shift:
        cuts = (slice(0, -M), slice(-M, -shift), slice(-shift, None))
        for n, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
            region[rows, columns] = n

    bias = position_bias(sd, at, M, pretrained)
    windows = []
    for top in range(0, x.shape[1], M):
        for left in range(0, x.shape[2], M):
            here = (slice(None), slice(top, top + M), slice(left, left + M))
            q, k, v = qkv[here].flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            scores = cosines * logit_scale.clamp(max=math.log(1 / 0.01)).exp() + bias
            label = region[here[1:]].flatten()
            scores = scores - 100.0 * (label[:, None] != label).to(scores)
            windows.append((scores.softmax(-1) @ v).transpose(1, 2).flatten(2).unflatten(1, (M, M)))
    rows = [windows[i : i + x.shape[2] // M] for i in range(0, len(windows), x.shape[2] // M)]
    out = torch.cat([torch.cat(row, 2) for row in rows], 1)
    out = torch.roll(out, (shift, shift), (1, 2))[:, :H, :W]
    return F.linear(out, sd[f'{at}.proj.weight'], sd[f'{at}.proj.bias'])


def position_bias(sd: dict[str, Tensor], at: str, M: int, pretrained: int) -> Tensor:
    """(heads, M², M²), of log-spaced coordinates that are computed in float32."""
    offsets = torch.arange(-(M - 1), M, dtype=torch.float32)
    if M > 1:
        offsets = offsets / ((pretrained or M) - 1)
    table = torch.stack(torch.meshgrid(offsets, offsets, indexing='ij'), -1) * 8
    table = torch.sign(table) * torch.log2(torch.abs(table) + 1.0) / math.log2(8)
    first, second = sd[f'{at}.cpb_mlp.0.weight'], sd[f'{at}.cpb_mlp.2.weight']
    hidden = F.relu(F.linear(table.to(first), first, sd[f'{at}.cpb_mlp.0.bias']))
    table = 16 * torch.sigmoid(F.linear(hidden, second))
    tokens = [(r, c) for r in range(M) for c in range(M)]
    rows = [
        torch.stack([table[ra - rb + M - 1, ca - cb + M - 1] for rb, cb in tokens])
        for ra, ca in tokens
    ]
    return torch.stack(rows).permute(2, 0, 1)

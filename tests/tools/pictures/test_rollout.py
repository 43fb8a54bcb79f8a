"""Rollout is the product of dense matrices that are built from the definition of attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small import randomized

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.layers import WindowMSA
from swin_backbone.ops.window_attention import (
    shifted_window_attention,
    shifted_window_cosine_attention,
)
from swin_backbone.tools.pictures.observation import observe
from swin_backbone.tools.pictures.rollout import grid_of, places, rollout
from swin_backbone.tools.pictures.show import look
from swin_backbone.tools.pictures.subject import Subject

KINDS = {1: SwinTransformer, 2: SwinTransformerV2}
SETTINGS = dict(embed_dims=12, depths=(2, 2), num_heads=(2, 3), window_size=4, out_indices=(0, 1))
# Whole windows, padded ones, a map of less than a window, and one token; sides that merge unevenly.
SIZES = [(64, 64), (52, 43), (12, 40), (4, 4)]


def backbone(version: int, **more):
    settings = {**SETTINGS, 'strides': (4, 2), **more}
    return randomized(KINDS[version](**settings)).double().eval()


@torch.no_grad()
def attention(block, tokens, grid):
    """A block's attention between all tokens of the map, (H W, H W): the mean of its heads.

    By the operator's definition, from values that are 1 at one token, in a batch of all of them.
    """
    msa, (height, width) = block.attn.w_msa, grid
    count, channels = height * width, tokens.shape[-1]
    window_size, shift = block.attn.windows(grid)
    v1 = isinstance(msa, WindowMSA)
    qkv = msa._project(block.norm1(tokens) if v1 else tokens).view(1, height, width, -1)
    qkv = qkv.repeat(count, 1, 1, 1)
    qkv[..., 2 * channels :] = torch.eye(count).view(count, height, width, 1)
    padding = msa._padding().clone()
    padding[2 * channels :] = 0
    options = dict(window_size=window_size, shift_size=shift, padding=padding, backend='reference')
    bias = msa.relative_position_bias(window_size)
    if v1:
        out = shifted_window_attention(qkv, bias, scale=msa.scale, **options)
    else:
        out = shifted_window_cosine_attention(qkv, bias, msa.logit_scale, **options)
    return out.mean(-1).view(count, count).t()  # (of the one, to the other) -> rows are queries


def merging(before, after, stride):
    """The share of each token in each merged token, (H' W', H W)."""
    found = torch.zeros(math.prod(after), math.prod(before), dtype=torch.float64)
    for i in range(after[0]):
        for j in range(after[1]):
            there = [
                row * before[1] + column
                for row in (i * stride, i * stride + 1)
                for column in (j * stride, j * stride + 1)
                if row < before[0] and column < before[1]
            ]
            found[i * after[1] + j, there] = 1 / len(there)
    return found


def dense(model, seen, stride):
    """The whole product, from the last block's tokens to the first stage's."""
    grids = [seen.tokens[stage, 0][1] for stage in (0, 1)]
    product = torch.eye(math.prod(grids[0]), dtype=torch.float64)
    for stage in (0, 1):
        if stage:
            product = merging(*grids, stride) @ product
        for block in (0, 1):
            layer = attention(model.stages[stage].blocks[block], *seen.tokens[stage, block])
            product = (layer + torch.eye(len(layer), dtype=torch.float64)) / 2 @ product
    return product


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('version', [1, 2])
def test_against_the_dense_product(version, size):
    check(backbone(version), size, 2)


def test_merging_by_other_strides():
    check(backbone(1, strides=(4, 1)), (27, 33), 1)


def check(model, size, stride):
    seen = observe(model, torch.randn(1, 3, *size, dtype=torch.float64), places(model, 1, 1))
    product = dense(model, seen, stride)
    grids = [grid_of(model, size, stage) for stage in (0, 1)]
    assert grids == [seen.tokens[stage, 0][1] for stage in (0, 1)]
    count = math.prod(grids[1])
    start = torch.zeros(3, count, dtype=torch.float64)
    start[0, -1] = start[1, count // 2] = 1
    start[2] = 1 / count
    found = rollout(model, seen.tokens, size, 1, 1, start.view(3, *grids[1]))
    wanted = start @ product
    for one, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.shares, exact.view(grids[0]), atol=1e-12)
        assert one.padded == pytest.approx(1 - exact.sum().item(), abs=1e-12)


def test_a_token_comes_from_its_windows_alone():
    """After one block from its window, after two from the windows that the shifted one touches."""
    model = backbone(1)
    seen = observe(model, torch.randn(1, 3, 64, 64, dtype=torch.float64), places(model, 0, 1))
    start = torch.zeros(1, 16, 16)
    start[0, 5, 9] = 1
    (first,) = rollout(model, seen.tokens, (64, 64), 0, 0, start)
    reached = np.argwhere(first.shares > 0)
    assert reached.min(0).tolist() == [4, 8] and reached.max(0).tolist() == [7, 11]
    assert first.shares[5, 9] > 0.5 and first.padded == 0
    (second,) = rollout(model, seen.tokens, (64, 64), 0, 1, start)
    reached = np.argwhere(second.shares > 1e-12)  # beside what the mask of -100 leaves
    assert reached.min(0).tolist() == [0, 4] and reached.max(0).tolist() == [7, 11]


def test_the_picture_has_the_numbers():
    model = backbone(1, out_indices=(1,)).float()
    subject = Subject('small', 'mine.pth', model, None, 'there is a backbone alone')
    image = np.random.default_rng(0).integers(0, 256, (52, 75, 3), dtype=np.uint8)
    pictures = look(image, subject, 'rollout', point=(70, 50), stage=1, everywhere=True)
    assert set(pictures.png) == {'rollout'}
    facts = pictures.facts['rollout']
    assert facts['stage'] == 1 and facts['block'] == 1 and facts['token'] == [6, 8]
    assert facts['grid'] == [13, 19] and 0 < facts['on_padding'] < 1
    # What only the rollout needed is gone.
    assert sorted(pictures.seen.tokens) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    one = look(image, subject, 'rollout', stage=1, block=0)
    assert sorted(one.seen.tokens) == [(1, 0), (1, 1)]

"""The drawn attention is the one that the block computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import randomized

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.layers import WindowMSA
from swin_backbone.ops.backends import use_backend
from swin_backbone.tools.pictures.attention import BlockAttention
from swin_backbone.tools.pictures.observation import observe

KINDS = {1: SwinTransformer, 2: SwinTransformerV2}
SETTINGS = dict(
    embed_dims=24,
    depths=(2, 2),
    num_heads=(2, 3),
    window_size=4,
    out_indices=(0, 1),
    strides=(4, 2),
)
# Multiples of the window, others, maps of one window, of less than a window, and of one token.
SIZES = [(64, 64), (52, 75), (16, 16), (12, 40), (4, 4)]


def backbone(version: int, **more):
    return randomized(KINDS[version](**{**SETTINGS, **more})).eval()


def output(block, tokens, grid):
    """The output of the block's attention module, by the reference backend."""
    with torch.no_grad(), use_backend('reference'):
        x = block.norm1(tokens) if isinstance(block.attn.w_msa, WindowMSA) else tokens
        return block.attn(x, grid).unflatten(1, grid)[0]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('pad_small_map', [True, False])
@pytest.mark.parametrize('version', [1, 2])
def test_weights_times_values_are_the_output(version, size, pad_small_map):
    model = backbone(version, pad_small_map=pad_small_map)
    places = [(stage, block) for stage in (0, 1) for block in (0, 1)]
    seen = observe(model, torch.randn(1, 3, *size), places)
    generator = np.random.default_rng(0)
    for stage, block in places:
        tokens, grid = seen.tokens[stage, block]
        module = model.stages[stage].blocks[block]
        wanted = output(module, tokens, grid)
        attention = BlockAttention(module, tokens, grid)
        for _ in range(4):
            row, column = generator.integers(grid)
            found = attention.at(int(row), int(column))
            np.testing.assert_allclose(found.weights.sum((1, 2)), 1, atol=1e-5)
            values = attention.values[found.rows[:, None], found.columns]
            attended = torch.einsum('hij,ijhd->hd', torch.tensor(found.weights), values).flatten()
            with torch.no_grad():
                got = module.attn.w_msa.proj(attended)
            torch.testing.assert_close(got, wanted[row, column], atol=1e-5, rtol=1e-5)


def test_without_biases_too():
    for version in (1, 2):
        model = backbone(version, qkv_bias=False)
        tokens, grid = observe(model, torch.randn(1, 3, 40, 56), [(0, 1)]).tokens[0, 1]
        module = model.stages[0].blocks[1]
        attention = BlockAttention(module, tokens, grid)
        found = attention.at(9, 13)
        values = attention.values[found.rows[:, None], found.columns]
        attended = torch.einsum('hij,ijhd->hd', torch.tensor(found.weights), values).flatten()
        with torch.no_grad():
            got = module.attn.w_msa.proj(attended)
        torch.testing.assert_close(got, output(module, tokens, grid)[9, 13], atol=1e-5, rtol=1e-5)


def test_every_token_is_in_its_window():
    model = backbone(1)
    seen = observe(model, torch.randn(1, 3, 52, 75), [(0, 0), (0, 1)])
    for block in (0, 1):
        tokens, grid = seen.tokens[0, block]
        attention = BlockAttention(model.stages[0].blocks[block], tokens, grid)
        for row in range(grid[0]):
            for column in range(grid[1]):
                window, query = attention.window_of(row, column)
                rows, columns = attention.places(window)
                assert (rows[query // 4], columns[query % 4]) == (row, column)


def test_pieces_of_a_wrapped_window():
    """On a map of 2 × 2 windows, shifted by 2, the last window has the first rows and columns."""
    model = backbone(1)
    tokens, grid = observe(model, torch.randn(1, 3, 32, 32), [(0, 1)]).tokens[0, 1]
    attention = BlockAttention(model.stages[0].blocks[1], tokens, grid)
    found = attention.at(0, 7)
    assert grid == (8, 8) and found.shift == 2
    assert found.rows.tolist() == [6, 7, 0, 1] and found.columns.tolist() == [6, 7, 0, 1]
    assert found.pieces() == [(0, 2, 6, 8), (6, 8, 6, 8), (6, 8, 0, 2), (0, 2, 0, 2)]
    # Its own part has all the attention, but for what a mask of -100 leaves.
    assert found.mean[2:, :2].sum() == pytest.approx(1, abs=1e-6)
    whole = attention.at(3, 4)
    assert whole.pieces() == [(2, 6, 2, 6)]


def test_share_of_padding():
    model = backbone(1)
    seen = observe(model, torch.randn(1, 3, 20, 20), [(0, 0), (0, 1)])  # 5 × 5 tokens
    attention = BlockAttention(model.stages[0].blocks[0], *seen.tokens[0, 0])
    assert attention.padded_grid == (8, 8)
    assert attention.at(0, 0).padded == 0
    found = attention.at(4, 4)  # the one token of its window that is no padding
    assert found.padded == pytest.approx(1 - found.mean[0, 0], abs=1e-6) and found.padded > 0.5


def test_observing_leaves_the_model_as_it_was():
    model = backbone(1)
    inputs = torch.randn(1, 3, 52, 75)
    with torch.no_grad():
        wanted = model(inputs)
    seen = observe(model, inputs, [(0, 1), (1, 0)])
    for got, want in zip(seen.maps.values(), wanted, strict=True):
        assert torch.equal(got, want)
    assert list(seen.maps) == [0, 1]
    assert not any(module._forward_pre_hooks for module in model.modules())

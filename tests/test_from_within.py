"""Features and attention from within, as docs/migrate.md has them: hooks and torch.export."""

from __future__ import annotations

import pytest
import torch
from small import SMALL, randomized

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.tools.pictures.attention import BlockAttention

KINDS = [SwinTransformer, SwinTransformerV2]
IMAGE = (1, 3, 92, 108)  # maps of 23 × 27 tokens, and so on: no multiples of the window


def small(kind, **more):
    torch.manual_seed(0)
    return randomized(kind(**{**SMALL, **more})).eval()


def kept(module, found, name):
    return module.register_forward_hook(lambda _, inputs, output: found.update({name: output}))


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_hook_on_a_block_gives_a_stages_map(kind):
    model, found = small(kind, out_indices=(1, -1)), {}
    image = torch.randn(IMAGE)
    plain = model(image)
    for stage in (1, 3):
        kept(model.stages[stage].blocks[-1], found, stage)
    for out, exact, stage in zip(model(image), plain, (1, 3), strict=True):
        torch.testing.assert_close(out, exact)
        tokens = getattr(model, f'norm{stage}')(found[stage])
        torch.testing.assert_close(tokens.transpose(1, 2).unflatten(2, out.shape[2:]), out)


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_hook_on_attn_drop_gives_the_attention_of_windows(kind):
    model, found = small(kind), {}
    block = model.stages[0].blocks[1]  # shifted
    kept(block.attn.w_msa.attn_drop, found, 'attention')
    block.register_forward_pre_hook(lambda _, inputs: found.update(inputs=inputs))
    image = torch.randn(IMAGE)
    hooked = model(image)
    weights = found['attention']
    assert weights.shape == (6 * 7, 1, 16, 16)  # of 23 × 27 tokens, padded to 24 × 28
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    ours = BlockAttention(block, *found['inputs'])
    for row, column in ((0, 0), (2, 5), (5, 6)):
        exact = ours.weights((row, column))
        torch.testing.assert_close(weights[row * 7 + column], exact, atol=1e-5, rtol=1e-4)
    for hooks in (block.attn.w_msa.attn_drop._forward_hooks, block._forward_pre_hooks):
        hooks.clear()
    for out, exact in zip(model(image), hooked, strict=True):
        torch.testing.assert_close(out, exact, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_hooks_before_compiling_fire():
    model, found = small(SwinTransformer, depths=(1, 1, 1, 1)), {}
    kept(model.stages[0].blocks[0].attn.w_msa.attn_drop, found, 'attention')
    compiled = torch.compile(model, backend='eager')
    compiled(torch.randn(IMAGE))
    assert found['attention'].shape == (6 * 7, 1, 16, 16)


@torch.no_grad()
def test_torch_export_records_a_graph_that_knows_its_modules():
    model, image = small(SwinTransformer, depths=(1, 1, 1, 1)), torch.randn(IMAGE)
    program = torch.export.export(model, (image,))
    for out, exact in zip(program.module()(image), model(image), strict=True):
        torch.testing.assert_close(out, exact)
    paths = {
        path
        for node in program.graph.nodes
        for path, _ in node.meta.get('nn_module_stack', {}).values()
    }
    assert {'stages.2.blocks.0', 'stages.2.blocks.0.attn', 'norm3'} <= paths

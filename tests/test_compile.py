"""The backbone under torch.compile and torch.export, and who may look into a block on a CPU."""

from __future__ import annotations

import pytest
import torch
from small import randomized
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.layers.fused import why_block_unfused
from swin_backbone.ops.backends import use_backend

TWO_STAGES = dict(depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
OP = torch.ops.swin_backbone.shifted_window_attention.default


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_twenty_sizes_compile_twice_at_most(small):
    small_model = SwinTransformer(**{**small, **TWO_STAGES}).eval()
    counter = CompileCounter()
    compiled = torch.compile(small_model, backend=counter, fullgraph=True)
    counts = []
    for i in range(20):
        x = torch.randn(1, 3, 33 + 5 * i, 40 + 3 * i)
        with torch.no_grad():
            for out, expected in zip(compiled(x), small_model(x), strict=True):
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        counts.append(counter.frame_count)
    assert counts[1] == counts[-1] <= 2


def test_ten_sizes_of_v2_compile_twice_at_most(small):
    small.update(TWO_STAGES, window_size=2)  # below every map, so that none is shrunk
    model = SwinTransformerV2(**small).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for i in range(10):
        x = torch.randn(1, 3, 97 + 5 * i, 100 + 3 * i)
        with torch.no_grad():
            for out, expected in zip(compiled(x), model(x), strict=True):
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2


def test_v2_compiled_gradients_and_export(small):
    small.update(TWO_STAGES)
    model = randomized(SwinTransformerV2(**small)).eval()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 45, 50)
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        sum(out.square().mean() for out in run(x)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for ours, exact in zip(*gradients, strict=True):
        size = exact.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(ours / size, exact / size, rtol=1e-4, atol=1e-4)
    program = torch.export.export(model, (x,))
    assert len([node for node in program.graph.nodes if node.target == OP]) == sum(small['depths'])


def test_compiled_gradients(small_model):
    compiled = torch.compile(small_model, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 45, 50)
    gradients = []
    for model in (small_model, compiled):
        small_model.zero_grad()
        sum(out.square().mean() for out in model(x)).backward()
        gradients.append([p.grad.clone() for p in small_model.parameters()])
    for ours, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(ours / exact.abs().max(), exact / exact.abs().max())


# With dropout attention is composed of PyTorch's own operators: minutes, with symbolic sizes.
# With it, inductor keeps the first image's strides for all (torch 2.13): docs/performance.md.
@inductor.patch(layout_optimization=False)
@pytest.mark.parametrize(
    'backend, attn_drop_rate',
    [
        ('aot_eager', 0.0),
        pytest.param('aot_eager', 0.1, marks=pytest.mark.slow),
        pytest.param('inductor', 0.0, marks=pytest.mark.slow),
    ],
)
def test_compiles_for_training_at_any_size(backend, attn_drop_rate):
    arguments = dict(embed_dims=16, depths=(2,), num_heads=(2,), window_size=4, out_indices=(0,))
    model = SwinTransformer(**arguments, strides=(4,), attn_drop_rate=attn_drop_rate).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for size in ((32, 48), (21, 37)):
        compiled(torch.randn(2, 3, *size))[0].square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_exports_with_one_operator_a_block(small_model):
    x = torch.randn(1, 3, 45, 50)
    program = torch.export.export(small_model, (x,))
    called = [node for node in program.graph.nodes if node.target == OP]
    assert len(called) == 8
    for out, expected in zip(program.module()(x), small_model(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_jit_traces_to_plain_operators(small_model):
    x = torch.randn(1, 3, 45, 50)
    with torch.no_grad():
        traced = torch.jit.trace(small_model, x, check_trace=False)
    assert 'swin_backbone::' not in str(traced.inlined_graph)
    for out, expected in zip(traced(x), small_model(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


# --- blocks in one piece -------------------------------------------------------------------------


def block_and_tokens(small_model):
    return small_model.stages[0].blocks[0], torch.randn(1, 64, 24)


def test_the_usual_block_runs_fused(small_model):
    assert why_block_unfused(*block_and_tokens(small_model), (8, 8)) is None


@pytest.mark.parametrize('name', ['norm1', 'attn.w_msa.qkv', 'attn', 'ffn.layers.0.1', 'ffn'])
@pytest.mark.parametrize(
    'register',
    ['register_forward_hook', 'register_forward_pre_hook', 'register_full_backward_hook'],
)
def test_hooks_within_a_block_are_called(small_model, name, register):
    block, x = block_and_tokens(small_model)
    called = []
    getattr(block.get_submodule(name), register)(lambda *args: called.append(name))
    block(x.requires_grad_(), (8, 8)).sum().backward()
    assert called == [name]


@pytest.mark.parametrize(
    ('name', 'replacement'),
    [
        ('ffn.layers.0.1', nn.ReLU()),
        ('ffn.layers.0.1', nn.GELU('tanh')),
        ('norm2', nn.Identity()),
        ('attn.w_msa.proj', nn.Sequential(nn.Linear(24, 24), nn.Tanh())),
        ('attn.drop', nn.Identity()),
    ],
)
def test_replaced_modules_are_used(small_model, name, replacement):
    block, x = block_and_tokens(small_model)
    before = block(x, (8, 8))
    parent, _, child = name.rpartition('.')
    setattr(block.get_submodule(parent), child, replacement)
    with use_backend('reference'):
        expected = block(x, (8, 8))
    assert why_block_unfused(block, x, (8, 8))
    torch.testing.assert_close(block(x, (8, 8)), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(replacement, nn.Identity) or not torch.allclose(before, expected, atol=1e-6)


def test_a_forward_of_ones_own_is_used(small_model):
    block, x = block_and_tokens(small_model)
    block.ffn.forward = lambda x, identity=None: identity
    with use_backend('reference'):
        expected = block(x, (8, 8))
    torch.testing.assert_close(block(x, (8, 8)), expected, rtol=1e-5, atol=1e-5)


def test_dropout_autocast_dtypes_and_backends_run_unfused(small):
    model = SwinTransformer(**small, drop_rate=0.1)
    block, x = block_and_tokens(model)
    assert 'drops' in why_block_unfused(block, x, (8, 8))
    block.eval()
    assert why_block_unfused(block, x, (8, 8)) is None
    with torch.autocast('cpu', torch.bfloat16):
        assert 'autocast' in why_block_unfused(block, x, (8, 8))
    with use_backend('sdpa'):
        assert 'sdpa' in why_block_unfused(block, x, (8, 8))
    assert 'bfloat16' in why_block_unfused(block.bfloat16(), x.bfloat16(), (8, 8))
    assert 'dtype' in why_block_unfused(block, x, (8, 8))

"""Compares the fused block with its definition."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from swin_backbone.ops import tiles
from swin_backbone.ops.block import Options, Parameters, reference, swin_block, why_not
from swin_backbone.ops.block import cpu as block_cpu
from swin_backbone.ops.linear import linear, linear_backward


def draw(dtype, C, heads, window, hidden, qkv_bias=True):
    shapes = Parameters(
        norm1_weight=(C,),
        norm1_bias=(C,),
        qkv_weight=(3 * C, C),
        qkv_bias=(3 * C,) if qkv_bias else None,
        bias=(heads, window**2, window**2),
        proj_weight=(C, C),
        proj_bias=(C,),
        norm2_weight=(C,),
        norm2_bias=(C,),
        fc1_weight=(hidden, C),
        fc1_bias=(hidden,),
        fc2_weight=(C, hidden),
        fc2_bias=(C,),
    )
    return Parameters(
        *(s if s is None else torch.randn(*s, dtype=dtype).requires_grad_() for s in shapes)
    )


def results(function, x, parameters, options, factors):
    out = function(x, parameters, options, factors)
    torch.manual_seed(1)
    inputs = [t for t in (x, *parameters) if t is not None and t.requires_grad]
    grad = torch.randn(out.shape, dtype=out.dtype)
    return out, *torch.autograd.grad(out, inputs, grad, materialize_grads=True)


def assert_near(ours, exact, tolerance):
    for mine, other in zip(ours, exact, strict=True):
        size = other.abs().max().clamp(min=1) if other.numel() else 1
        torch.testing.assert_close(mine / size, other / size, rtol=tolerance, atol=tolerance)


@settings(max_examples=40)
@given(data=st.data())
def test_agrees_with_the_reference(data):
    B, H, W = (data.draw(st.integers(low, high)) for low, high in ((0, 3), (1, 17), (1, 17)))
    window, heads, dim, hidden = (data.draw(st.integers(1, high)) for high in (8, 3, 5, 9))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    # The norm of a width of 1 is zero up to rounding errors.
    C = heads * (dim + 1)
    parameters = draw(dtype, C, heads, window, hidden, data.draw(st.booleans()))
    x = torch.randn(B, W, H, C, dtype=dtype).transpose(1, 2).requires_grad_()
    options = Options(window, data.draw(st.integers(0, window - 1)), 0.4, 1e-5, 1e-3)
    factors = torch.rand(2, B, dtype=dtype) if data.draw(st.booleans()) else None
    exact = results(reference.swin_block, x, parameters, options, factors)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-4}[dtype]
    for recompute in (False, True):
        block = functools.partial(swin_block, recompute=recompute)
        assert_near(results(block, x, parameters, options, factors), exact, tolerance)
    with torch.no_grad():
        assert_near([swin_block(x, parameters, options, factors)], exact[:1], tolerance)


@pytest.mark.parametrize('tokens', [1, 40, 100])
def test_agrees_however_the_map_is_cut_into_tiles(tokens, monkeypatch):
    monkeypatch.setattr(tiles, 'TOKENS', tokens)
    parameters = draw(torch.float64, 8, 2, 4, 12)
    x = torch.randn(2, 13, 9, 8, dtype=torch.float64, requires_grad=True)
    args = (x, parameters, Options(4, 2, 0.5, 1e-5, 1e-5), None)
    assert_near(results(swin_block, *args), results(reference.swin_block, *args), 1e-10)


def test_frozen_parameters_get_no_gradient():
    parameters = draw(torch.float64, 8, 2, 4, 12)
    for name in ('norm1_bias', 'qkv_weight', 'bias', 'fc2_weight', 'fc2_bias'):
        getattr(parameters, name).requires_grad_(False)
    x = torch.randn(1, 6, 7, 8, dtype=torch.float64)
    args = (x, parameters, Options(4, 2, 0.5, 1e-5, 1e-5), None)
    assert_near(results(swin_block, *args), results(reference.swin_block, *args), 1e-10)
    swin_block(*args).sum().backward()
    assert all((t.grad is not None) == t.requires_grad for t in parameters)


@pytest.mark.parametrize('recompute', [False, True, 'block', 'attention', 'mlp'])
def test_keeps_its_inputs_and_perhaps_what_attention_gave(recompute):
    parameters = draw(torch.float64, 8, 2, 4, 12)
    x = torch.randn(2, 8, 7, 8, dtype=torch.float64, requires_grad=True)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.data_ptr(): t.numel()}) or t, lambda t: t
    ):
        swin_block(x, parameters, Options(4, 2, 0.5, 1e-5, 1e-5), None, recompute)
    inputs = {t.data_ptr() for t in (x, *parameters)}
    assert inputs <= saved.keys()
    others = sum(size for pointer, size in saved.items() if pointer not in inputs)
    assert others == (x.numel() if recompute in (False, 'mlp') else 0)


def test_cannot_run_on_other_types_and_devices():
    numbers = dict(heads=2, window_size=7, hidden=16)
    assert why_not(torch.empty(1, 8), **numbers) is None
    assert 'bfloat16' in why_not(torch.empty(1, 8, dtype=torch.bfloat16), **numbers)
    assert 'meta' in why_not(torch.empty(1, 8, device='meta'), **numbers)


@pytest.mark.parametrize('sizes', [(5, 3, 7), (64, 96, 32), (1, 1, 1), (0, 4, 4)])
@pytest.mark.parametrize('enabled', [True, False])
def test_linear_layers_with_either_library(sizes, enabled):
    rows, inputs, outputs = sizes
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs)
    x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    exact = F.linear(x, weight, bias)
    grad = torch.randn_like(exact)
    gradients = torch.autograd.grad(exact, (x, weight, bias), grad)
    with torch.backends.mkldnn.flags(enabled=enabled), torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), exact, rtol=1e-5, atol=1e-5)
        activated = linear(x, weight, bias, gelu=True)
        torch.testing.assert_close(activated, F.gelu(exact), rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(linear_backward(grad, x, weight, True), gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert linear_backward(grad, x, weight, False)[1:] == (None, None)


def test_numbers_of_rows_are_few():
    """oneDNN caches a program for each: 400 sizes of maps need a few dozen, not hundreds."""
    exact, rounded = set(), set()
    for height in range(20, 40):
        for width in range(20, 40):
            for tile in tiles.window_tiles((1, height, width), 7, 3, None):
                real = block_cpu._Real.tokens(tile)
                exact.add(real.length)
                rounded.add(len(real.rows))
                assert real.length <= len(real.rows) <= max(real.length * 17 / 16, real.length + 7)
                assert (real.rows[real.length :] == real.rows[real.length - 1]).all()
    assert len(exact) > 150
    assert len(rounded) < 60

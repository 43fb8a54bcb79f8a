"""Compares every backend of window attention with the reference, and tests the selection."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone import ArgumentError
from swin_backbone.ops import tiles
from swin_backbone.ops.backends import BACKENDS as NAMES
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.window_attention import (
    dispatch,
    explain_backend,
    shifted_window_attention,
)
from swin_backbone.ops.window_attention.operator import IMPLEMENTATIONS, attention_op

BACKENDS = ('sdpa', 'cpu')
# `indexed` uses plain operators like the reference; only exporters select it.
ALL = (*BACKENDS, 'indexed')
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def draw(B, H, W, heads, dim, window, dtype=torch.float64, padding=True):
    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype).requires_grad_()

    width = 3 * heads * dim
    qkv, bias = tensor(B, H, W, width), tensor(heads, window**2, window**2)
    return qkv, bias, tensor(width) if padding else None


def results(backend, qkv, bias, padding, **options):
    """The output and the gradients of all inputs; unused inputs get zeros."""
    out = shifted_window_attention(qkv, bias, padding=padding, backend=backend, **options)
    torch.manual_seed(1)
    inputs = [t for t in (qkv, bias, padding) if t is not None]
    grad = torch.randn(out.shape, dtype=out.dtype)
    gradients = torch.autograd.grad(out, inputs, grad, materialize_grads=True)
    return out, *gradients


def assert_near(ours, exact, tolerance):
    for mine, other in zip(ours, exact, strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        size = other.abs().max().clamp(min=1) if other.numel() else 1
        torch.testing.assert_close(mine / size, other / size, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('backend', ALL)
@settings(max_examples=40)
@given(data=st.data())
def test_agrees_with_the_reference(backend, data):
    B, H, W = (data.draw(st.integers(low, high)) for low, high in ((0, 3), (1, 17), (1, 17)))
    window, heads, dim = (data.draw(st.integers(1, high)) for high in (8, 3, 5))
    dtype = data.draw(st.sampled_from(list(TOLERANCE)))
    qkv, bias, padding = draw(B, H, W, heads, dim, window, dtype, data.draw(st.booleans()))
    layout = data.draw(st.permutations(range(4)))
    qkv = qkv.permute(*layout).contiguous().permute(*(layout.index(i) for i in range(4)))
    bias = bias.permute(0, 2, 1) if data.draw(st.booleans()) else bias
    options = dict(
        window_size=window,
        shift_size=data.draw(st.integers(0, window - 1)),
        scale=data.draw(st.sampled_from([None, 0.3])),
    )
    exact = results('reference', qkv, bias, padding, **options)
    assert_near(results(backend, qkv, bias, padding, **options), exact, TOLERANCE[dtype])


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('tokens', [1, 40, 100])
def test_agrees_however_the_map_is_cut_into_tiles(backend, tokens, monkeypatch):
    monkeypatch.setattr(tiles, 'TOKENS', tokens)
    inputs = draw(2, 13, 9, 2, 4, 4)
    options = dict(window_size=4, shift_size=2)
    exact = results('reference', *inputs, **options)
    assert_near(results(backend, *inputs, **options), exact, 1e-10)


@pytest.mark.parametrize('backend', ALL)
@pytest.mark.parametrize('window', [7, 12, 16, 24])
def test_agrees_at_windows_in_use(backend, window):
    inputs = draw(1, window + 3, 2 * window, 2, 32, window, torch.float32)
    options = dict(window_size=window, shift_size=window // 2)
    exact = results('reference', *inputs, **options)
    assert_near(results(backend, *inputs, **options), exact, 1e-5)


@pytest.mark.parametrize('backend', ALL)
def test_mixed_precision_as_under_autocast(backend):
    qkv, bias, padding = draw(2, 9, 8, 2, 4, 4, torch.float32)
    options = dict(window_size=4, shift_size=2)
    exact = results('reference', qkv, bias, padding, **options)
    with torch.autocast('cpu', torch.bfloat16):
        ours = results(backend, qkv, bias, padding, **options)
    assert ours[0].dtype == torch.bfloat16
    assert_near([ours[0].float(), *ours[1:]], exact, 5e-2)


@pytest.mark.parametrize('backend', BACKENDS)
def test_no_score_is_kept_for_the_backward_pass(backend):
    qkv, bias, padding = draw(1, 32, 32, 1, 4, 16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.data_ptr()) or t, lambda t: t
    ):
        shifted_window_attention(
            qkv, bias, padding=padding, window_size=16, shift_size=8, backend=backend
        )
    assert set(saved) == {t.data_ptr() for t in (qkv, bias, padding)}


@pytest.mark.parametrize('backend', [*BACKENDS, 'reference'])
@pytest.mark.parametrize('padding', [True, False])
def test_operator_is_well_formed(backend, padding):
    inputs = draw(2, 5, 7, 2, 3, 4, padding=padding)
    torch.library.opcheck(attention_op, (*inputs, 4, 2, 0.5, backend))


@pytest.mark.parametrize('backend', ALL)
def test_gradients_numerically(backend):
    inputs = draw(1, 3, 5, 2, 2, 2)
    assert torch.autograd.gradcheck(
        lambda q, b, p: shifted_window_attention(
            q, b, window_size=2, shift_size=1, padding=p, backend=backend
        ),
        inputs,
    )


def test_second_derivatives_of_the_reference():
    inputs = draw(1, 3, 3, 1, 2, 2)
    assert torch.autograd.gradgradcheck(
        lambda q, b, p: shifted_window_attention(
            q, b, window_size=2, shift_size=1, padding=p, backend='reference'
        ),
        inputs,
    )


def test_work_is_counted_alike():
    counts = []
    for backend in ('reference', *BACKENDS):
        inputs = draw(2, 9, 8, 2, 4, 4)
        with FlopCounterMode(display=False) as counter:
            shifted_window_attention(*inputs[:2], window_size=4, shift_size=2, backend=backend)
        counts.append(counter.get_total_flops())
    assert counts[0] > 0 and len(set(counts)) == 1


# --- choice --------------------------------------------------------------------------------------


def test_every_backend_is_declared():
    assert sorted(IMPLEMENTATIONS) == sorted(NAMES)
    for backend in IMPLEMENTATIONS.values():
        assert backend.attend or (backend.forward and backend.backward)


def test_choice_by_device_and_why():
    assert explain_backend('cpu').backend == 'cpu'
    assert explain_backend('meta').backend == 'sdpa'
    choice = explain_backend('cpu', dropout_p=0.1)
    assert choice.backend == 'reference' and 'dropout' in choice.rejected['cpu']


@pytest.mark.parametrize('fault, taken', [(None, 'triton'), ('its kernels are wrong', 'sdpa')])
def test_kernels_are_tried_before_they_are_chosen(monkeypatch, fault, taken):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(dispatch, 'can_run', lambda name, problem: None)
    monkeypatch.setattr(dispatch.TRIAL, 'fault', lambda *args: fault)
    choice = explain_backend('cuda', torch.bfloat16)
    assert choice.backend == taken and choice.rejected.get('triton') == fault
    assert explain_backend('cuda', torch.bfloat16, backend='triton').backend == 'triton'


def test_argument_over_context_over_environment(monkeypatch):
    monkeypatch.setenv('SWIN_BACKEND', 'sdpa')
    assert explain_backend('cpu').backend == 'sdpa'
    with use_backend('reference'):
        assert explain_backend('cpu').backend == 'reference'
        with use_backend(None):
            assert explain_backend('cpu').backend == 'cpu'
        assert explain_backend('cpu', backend='sdpa').backend == 'sdpa'
        assert explain_backend('cpu', backend='auto').backend == 'cpu'
    assert explain_backend('cpu').backend == 'sdpa'


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    with pytest.raises(ArgumentError, match=r"'cpu', asked for by argument.*dropout"):
        explain_backend('cpu', dropout_p=0.5, backend='cpu')
    with pytest.raises(ArgumentError, match=r"unknown backend 'spda'"), use_backend('spda'):
        pass
    monkeypatch.setenv('SWIN_BACKEND', 'fastest')
    with pytest.raises(ArgumentError, match=r"SWIN_BACKEND: unknown backend 'fastest'"):
        explain_backend('cpu')


@pytest.mark.parametrize(
    ('shapes', 'options', 'message'),
    [
        (((1, 4, 12), (2, 4, 4), (12,)), {}, 'qkv must be'),
        (((1, 4, 4, 14), (2, 4, 4), (14,)), {}, 'three times 2 heads'),
        (((1, 4, 4, 12), (2, 4, 9), (12,)), {}, 'does not fit window_size=2'),
        (((1, 4, 4, 12), (2, 4, 4), (6,)), {}, r'padding must be \(12,\)'),
        (((1, 4, 4, 12), (2, 4, 4), (12,)), dict(shift_size=2), 'shift_size=2'),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, options, message):
    qkv, bias, padding = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ArgumentError, match=message):
        shifted_window_attention(qkv, bias, padding=padding, window_size=2, **options)


# --- compilers and tracers -----------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['auto', *BACKENDS])
def test_exports_as_one_operator(backend):
    class Attention(torch.nn.Module):
        def forward(self, qkv, bias):
            return shifted_window_attention(qkv, bias, window_size=4, shift_size=2, backend=backend)

    qkv, bias, _ = draw(2, 9, 8, 2, 4, 4)
    qkv, bias = qkv.detach(), bias.detach()
    program = torch.export.export(Attention(), (qkv, bias))
    called = [node.target for node in program.graph.nodes if node.op == 'call_function']
    assert called == [torch.ops.swin_backbone.shifted_window_attention.default]
    torch.testing.assert_close(program.module()(qkv, bias), Attention()(qkv, bias))


@pytest.mark.parametrize('dropout_p', [0.0, 0.5])
def test_compiles_to_one_graph_for_any_shape(dropout_p):
    def attend(qkv, bias, padding):
        return shifted_window_attention(
            qkv, bias, padding=padding, window_size=4, shift_size=2, dropout_p=dropout_p
        )

    torch.compiler.reset()
    compiled = torch.compile(attend, dynamic=True, fullgraph=True, backend='eager')
    for H, heads in ((9, 2), (12, 2), (9, 3)):
        inputs = draw(2, H, 8, heads, 4, 4)
        torch.manual_seed(0)
        ours = compiled(*inputs)
        torch.manual_seed(0)
        torch.testing.assert_close(ours, attend(*inputs))


def test_traces_to_plain_operators():
    qkv, bias, _ = draw(2, 9, 8, 2, 4, 4)
    qkv, bias = qkv.detach(), bias.detach()
    traced = torch.jit.trace(
        lambda q, b: shifted_window_attention(q, b, window_size=4, shift_size=2), (qkv, bias)
    )
    assert 'swin_backbone::' not in str(traced.graph)
    torch.testing.assert_close(
        traced(qkv, bias), shifted_window_attention(qkv, bias, window_size=4, shift_size=2)
    )


def test_dropout_keeps_the_mean_under_sdpa():
    qkv, bias, _ = draw(1, 4, 4, 1, 4, 4)
    qkv, bias = qkv.detach(), bias.detach()
    exact = shifted_window_attention(qkv, bias, window_size=4)
    many = torch.stack(
        [
            shifted_window_attention(qkv, bias, window_size=4, dropout_p=0.5, backend='sdpa')
            for _ in range(2000)
        ]
    )
    error = (many.mean(0) - exact).abs() / (many.std(0) / math.sqrt(2000))
    assert error.max() < 5 and many.std(0).min() > 0

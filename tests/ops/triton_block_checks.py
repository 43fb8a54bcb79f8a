"""The block's kernels; test_triton.py runs this on the GPU or under Triton's interpreter."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from kernel_results import DEVICE, DTYPES, EXACT, ON_GPUS, TOLERANCE, assert_near
from kernel_results import results as results_of
from torch.nn import functional as F

from swin_backbone import SwinTransformer
from swin_backbone.layers.fused import why_block_unfused
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.block import Options, Parameters, reference, trial, triton
from swin_backbone.ops.tokenwise import triton as tokenwise
from swin_backbone.ops.trial import Setting


def draw(dtype, C, heads, window, hidden, qkv_bias=True):
    def linear(outputs, inputs):
        return inputs**-0.5 * torch.randn(outputs, inputs), torch.randn(outputs)

    qkv_weight, bias = linear(3 * C, C)
    drawn = Parameters(
        *(torch.randn(C), torch.randn(C)),
        *(qkv_weight, bias if qkv_bias else None),
        torch.randn(heads, window**2, window**2),
        *linear(C, C),
        *(torch.randn(C), torch.randn(C)),
        *linear(hidden, C),
        *linear(C, hidden),
    )
    return Parameters(*(t if t is None else t.to(DEVICE, dtype).requires_grad_() for t in drawn))


def results(function, x, parameters, options, factors, products=None):
    """The output, and the gradients of the map and of all parameters."""
    inputs = [t for t in (x, *parameters) if t is not None]
    return results_of(lambda: function(x, parameters, options, factors), inputs, products)


def exact(x, parameters, options, factors):
    def wide(t):
        return None if t is None else t.detach().double().requires_grad_(t.requires_grad)

    parameters = Parameters(*map(wide, parameters))
    return results(reference.swin_block, wide(x), parameters, options, wide(factors))


def agrees_with_the_reference(data):
    B, H, W = (data.draw(st.integers(low, high)) for low, high in ((0, 2), (1, 7), (1, 7)))
    window, heads, hidden = (data.draw(st.integers(1, high)) for high in (5, 3, 300))
    C = heads * data.draw(st.sampled_from([4, 16, 31, 64]))
    dtype = data.draw(st.sampled_from(DTYPES))
    products = None
    if dtype == torch.float32:  # as under autocast
        products = data.draw(st.sampled_from([None, torch.float16, torch.bfloat16]))
    parameters = draw(dtype, C, heads, window, hidden, data.draw(st.booleans()))
    x = torch.randn(B, W, H, C).to(DEVICE, dtype).transpose(1, 2).requires_grad_()
    options = Options(window, data.draw(st.integers(0, window - 1)), 0.4, 1e-5, 1e-3)
    wide = torch.promote_types(dtype, torch.float32)
    factors = torch.rand(2, B).to(DEVICE, wide) if data.draw(st.booleans()) else None
    expected = exact(x, parameters, options, factors)
    recompute = data.draw(st.sampled_from([False, True, 'attention', 'mlp']))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenwise, 'NARROW', data.draw(st.sampled_from([0, 10**6])))
        ours = results(
            lambda *args: triton.swin_block(*args, recompute),
            *(x, parameters, options, factors, products),
        )
    assert all(t.dtype == dtype for t in ours)
    assert_near(ours, expected, TOLERANCE[products or dtype])
    with torch.no_grad(), torch.autocast(DEVICE, products or dtype, enabled=products is not None):
        out = triton.swin_block(x, parameters, options, factors)
    assert_near([out], expected[:1], TOLERANCE[products or dtype])


test_agrees_with_the_reference = settings(max_examples=6)(
    given(data=st.data())(agrees_with_the_reference)
)
test_agrees_on_more_problems = pytest.mark.slow(
    settings(max_examples=30)(given(data=st.data())(agrees_with_the_reference))
)


@pytest.mark.parametrize('C, heads', [(96, 3), (520, 13)])
def test_widths_that_fill_no_tile(C, heads):
    parameters = draw(torch.float32, C, heads, 4, 4 * C)
    x = torch.randn(2, 2, 3, C, device=DEVICE, requires_grad=True)
    args = (x, parameters, Options(4, 2, 0.2, 1e-5, 1e-5), None)
    assert_near(results(triton.swin_block, *args), exact(*args), TOLERANCE[torch.float32])


@pytest.mark.parametrize('programs', [1, 3, 1000])
def test_sums_over_groups_of_rows(programs, monkeypatch):
    """One group, a few groups with an incomplete last one, and as many as possible."""
    monkeypatch.setattr(tokenwise, 'PROGRAMS', dict.fromkeys(tokenwise.PROGRAMS, programs))
    monkeypatch.setattr(tokenwise, 'TILE', 64)
    parameters = draw(torch.float32, 16, 2, 4, 40)
    x = torch.randn(2, 5, 7, 16, device=DEVICE, requires_grad=True)
    factors = torch.tensor([[0.0, 1.5], [1.25, 1.0]], device=DEVICE)
    args = (x, parameters, Options(4, 1, 0.2, 1e-5, 1e-5), factors)
    assert_near(results(triton.swin_block, *args), exact(*args), TOLERANCE[torch.float32])


def test_equal_bits_twice():
    parameters = draw(torch.float32, 32, 2, 4, 64)
    x = torch.randn(2, 5, 7, 32, device=DEVICE, requires_grad=True)
    args = (x, parameters, Options(4, 1, 0.2, 1e-5, 1e-5), None, torch.bfloat16)
    for one, other in zip(*(results(triton.swin_block, *args) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_frozen_parameters_get_no_gradient():
    parameters = draw(torch.float32, 16, 2, 4, 40)
    for name in ('norm1_bias', 'qkv_weight', 'bias', 'fc2_weight', 'fc2_bias'):
        getattr(parameters, name).requires_grad_(False)
    x = torch.randn(1, 6, 7, 16, device=DEVICE)
    triton.swin_block(x, parameters, Options(4, 2, 0.5, 1e-5, 1e-5)).sum().backward()
    assert all((t.grad is not None) == t.requires_grad for t in parameters)


@pytest.mark.parametrize(
    'recompute, C, bytes_an_element',
    [
        (False, 64, 10),  # queries, keys, values, what attention gave, its projection
        ('mlp', 272, 10),
        (False, 272, 18),  # wider than NARROW: the hidden layer too
        ('attention', 64, 0),
        (True, 272, 0),
    ],
)
def test_keeps_no_more_than_it_says(recompute, C, bytes_an_element):
    """Under autocast to bfloat16; the input (4 bytes an element) and parameters do not count."""
    parameters = draw(torch.float32, C, 2 if C == 64 else 17, 4, 4 * C)
    x = torch.randn(2, 4, 4, C, device=DEVICE, requires_grad=True)
    kept = {}
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
        ),
        torch.autocast(DEVICE, torch.bfloat16),
    ):
        triton.swin_block(x, parameters, Options(4, 2, 0.5, 1e-5, 1e-5), None, recompute)
    others = kept.keys() - {t.data_ptr() for t in (x, *parameters)}
    assert sum(kept[pointer] for pointer in others) == bytes_an_element * x.numel()


@pytest.mark.parametrize(
    'with_cp',
    [
        *(False, 'stage'),
        *(pytest.param(part, marks=pytest.mark.slow) for part in (True, 'attention', 'mlp')),
    ],
)
def test_backbone_agrees_with_its_modules_and_draws_the_same_paths(with_cp, monkeypatch):
    model = SwinTransformer(
        embed_dims=32,
        depths=(2,),
        num_heads=(2,),
        strides=(4,),
        out_indices=(0,),
        window_size=4,
        drop_path_rate=0.5,
        with_cp=with_cp,
    ).to(DEVICE, EXACT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 13, 18, dtype=EXACT, device=DEVICE)
    found = []
    for modules in (False, True):
        if modules:
            why_not = 'swin_backbone.layers.block.why_block_unfused'
            monkeypatch.setattr(why_not, lambda *args: 'by modules')
        torch.manual_seed(3)
        with use_backend('triton'):
            outs = model(x)
        loss = sum(out.square().sum() for out in outs)
        found.append([*outs, *torch.autograd.grad(loss, model.parameters())])
    assert_near(*found, {torch.float64: 1e-11, torch.float32: 1e-4}[EXACT])


def test_autocast_is_as_near_to_float32_as_the_modules_are():
    stages = dict(depths=(2,), num_heads=(2,), strides=(4,), out_indices=(0,))
    model = SwinTransformer(embed_dims=32, **stages, drop_path_rate=0.0).to(DEVICE)
    block = model.stages[0].blocks[1]
    x = torch.randn(2, 90, 32, device=DEVICE)
    with use_backend('triton'):
        expected = block(x, (9, 10))
        with torch.autocast(DEVICE, torch.bfloat16):
            assert why_block_unfused(block, x, (9, 10)) is None
            ours = block(x, (9, 10))
            modules = block._unfused(x, (9, 10))
    assert ours.dtype == modules.dtype == torch.float32
    # Triton's interpreter truncates bfloat16 where GPUs round: twice the error, squared.
    factor = 1.2 if DEVICE == 'cuda' else 4
    assert F.mse_loss(ours, expected) <= factor * F.mse_loss(modules, expected)


@pytest.mark.parametrize(('dtype', 'products'), ON_GPUS)
def test_trial_passes(dtype, products):
    x = torch.randn(2, 4, 4, 48, dtype=dtype, device=DEVICE)
    for autocast in {products != dtype, products != torch.float32}:
        with torch.inference_mode(), torch.autocast(DEVICE, products, enabled=autocast):
            assert trial.TRIAL.fault(Setting.of(x), 48, 3, 5, 96) is None


@pytest.mark.parametrize('name', ['add_norm', 'norm_backward', 'path_backward', 'gelu_backward'])
def test_trial_finds_wrong_results(name, monkeypatch):
    right = getattr(triton, name)

    def wrong(*args, **kwargs):
        found = right(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return found * 0.7
        worse = [t * 0.7 for t in found]
        return type(found)(*worse) if hasattr(found, '_fields') else tuple(worse)

    monkeypatch.setattr(triton, name, wrong)
    trial.TRIAL.forget()
    with pytest.warns(UserWarning, match='module by module: its kernels are wrong'):
        setting = Setting(torch.device(DEVICE), torch.float32)
        assert 'wrong' in trial.TRIAL.fault(setting, 48, 3, 5, 96)
    trial.TRIAL.forget()


def test_says_why_it_cannot_run():
    x = torch.empty(1, 2, 2, 64, device=DEVICE)
    assert triton.can_run(x, 2, 7) is None
    assert '65 wide' in triton.can_run(x.new_empty(1, 65), 1, 7)
    assert '9000 wide' in triton.can_run(x.new_empty(1, 9000), 300, 7)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert 'float16' in triton.can_run(x.half(), 2, 7)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_gelu_of_every_half(dtype):
    """Output and gradient, to one unit in the last place (the interpreter truncates bfloat16)."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    h = every[every.isfinite()].view(-1, 256).to(DEVICE)
    wide = h.double().requires_grad_()
    exact = F.gelu(wide)
    (d_exact,) = torch.autograd.grad(exact.sum(), wide)
    kept, active = h.clone(), tokenwise.gelu(h, keep=True)
    assert torch.equal(h, kept)
    again, d_h, _ = tokenwise.gelu_backward(h, torch.ones_like(h))
    overwritten = tokenwise.gelu(kept, keep=False)
    assert overwritten is kept
    assert torch.equal(again, active) and torch.equal(overwritten, active)
    # The gradient is a difference of two terms, which cancel where it is small.
    for mine, other, difference in ((active, exact, 1e-7), (d_h, d_exact, 3e-6)):
        off = (mine.double() - other).abs()
        assert (off <= torch.finfo(dtype).eps * other.abs() + difference).all()

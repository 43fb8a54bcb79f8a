"""The kernels of V2's paths; test_triton.py runs this on the GPU or under Triton's interpreter."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from kernel_results import DEVICE, DTYPES, EXACT, TOLERANCE, assert_near
from kernel_results import results as results_of

from swin_backbone import SwinTransformerV2
from swin_backbone.layers.fused import why_paths_unfused
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.post_norm import FeedForward, Norm, reference, trial, triton, why_not
from swin_backbone.ops.tokenwise import triton as tokenwise
from swin_backbone.ops.trial import Setting


def norm_add(ops, x, path, weight, bias, factors):
    return ops.norm_add(x, path, Norm(weight, bias, 1e-3), factors)


def feed_forward(ops, x, fc1_weight, fc1_bias, fc2_weight, fc2_bias, weight, bias, factors):
    norm = Norm(weight, bias, 1e-3)
    return ops.feed_forward(
        x, FeedForward(fc1_weight, fc1_bias, fc2_weight, fc2_bias, norm), factors
    )


def results(function, ops, inputs, factors, products=None):
    """The output, and the gradients of all inputs."""
    return results_of(lambda: function(ops, *inputs, factors), inputs, products)


@settings(max_examples=40)
@given(data=st.data())
def test_agrees_with_the_reference(data):
    B, L = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 30))
    C, hidden = data.draw(st.integers(2, 70)), data.draw(st.integers(1, 200))
    dtype = data.draw(st.sampled_from(DTYPES))
    products = None
    if dtype == torch.float32:  # as under autocast
        products = data.draw(st.sampled_from([None, torch.float16, torch.bfloat16]))

    def draw(*shape, size=1.0):
        return (size * torch.randn(shape)).to(DEVICE, dtype).requires_grad_()

    x = draw(B, C, L).transpose(1, 2).detach().requires_grad_()
    if data.draw(st.booleans()):
        function, inputs = norm_add, [x, draw(B, L, C), draw(C), draw(C)]
    else:
        fc1, fc2 = draw(hidden, C, size=C**-0.5), draw(C, hidden, size=hidden**-0.5)
        function, inputs = feed_forward, [x, fc1, draw(hidden), fc2, draw(C), draw(C), draw(C)]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    factors = torch.rand(B).to(DEVICE) if data.draw(st.booleans()) else None
    exact = None if factors is None else factors.double()
    expected = results(function, reference, wide, exact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenwise, 'NARROW', data.draw(st.sampled_from([0, 10**6])))
        ours = results(function, triton, inputs, factors, products)
    assert all(t.dtype == dtype for t in ours)
    assert_near(ours, expected, TOLERANCE[products or dtype])
    with torch.no_grad(), torch.autocast(DEVICE, products or dtype, enabled=products is not None):
        assert_near([function(triton, *inputs, factors)], [ours[0].double()], TOLERANCE[dtype])


@pytest.mark.parametrize('programs', [1, 3, 1000])
def test_sums_over_groups_of_rows(programs, monkeypatch):
    monkeypatch.setattr(tokenwise, 'PROGRAMS', dict.fromkeys(tokenwise.PROGRAMS, programs))
    monkeypatch.setattr(tokenwise, 'TILE', 64)
    shapes = (2, 63, 16), (40, 16), (40,), (16, 40), (16,), (16,), (16,)
    inputs = [torch.randn(s, device=DEVICE, requires_grad=True) for s in shapes]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    exact = results(feed_forward, reference, wide, None)
    assert_near(results(feed_forward, triton, inputs, None), exact, TOLERANCE[torch.float32])


@pytest.mark.parametrize('C, bytes_an_element', [(64, 2), (272, 10)])
def test_feed_forward_keeps_its_output_and_a_wide_hidden_layer(C, bytes_an_element):
    """Under autocast to bfloat16; its input and parameters are not counted."""
    shapes = (2, 16, C), (4 * C, C), (4 * C,), (C, 4 * C), (C,), (C,), (C,)
    inputs = [torch.randn(s, device=DEVICE, requires_grad=True) for s in shapes]
    kept = {}
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
        ),
        torch.autocast(DEVICE, torch.bfloat16),
    ):
        feed_forward(triton, *inputs, None)
    others = kept.keys() - {t.data_ptr() for t in inputs}
    assert sum(kept[pointer] for pointer in others) == bytes_an_element * inputs[0].numel()


def small(**options):
    stages = dict(depths=(2,), num_heads=(2,), strides=(4,), out_indices=(0,), window_size=4)
    return SwinTransformerV2(embed_dims=32, **stages, **options).to(DEVICE, EXACT)


@pytest.mark.parametrize('with_cp', [False, 'mlp', 'stage'])
def test_backbone_agrees_with_its_modules_and_draws_the_same_paths(with_cp, monkeypatch):
    model = small(drop_path_rate=0.5, with_cp=with_cp)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, 3, 13, 18, dtype=EXACT, device=DEVICE)
    found = []
    for modules in (False, True):
        if modules:
            name = 'swin_backbone.layers.block_v2.why_paths_unfused'
            monkeypatch.setattr(name, lambda *args: 'by modules')
        torch.manual_seed(3)
        with use_backend('triton'):
            outs = model(x)
        loss = sum(out.square().sum() for out in outs)
        found.append([*outs, *torch.autograd.grad(loss, model.parameters())])
    assert_near(*found, {torch.float64: 1e-10, torch.float32: 1e-4}[EXACT])


@pytest.mark.parametrize(
    'name', ['norm1', 'norm2', 'ffn', 'ffn.layers.0.1', 'attn.drop', 'ffn.dropout_layer']
)
def test_hooks_within_a_block_are_called(name):
    block, seen = small().stages[0].blocks[1], []
    x = torch.randn(1, 20, 32, dtype=EXACT, device=DEVICE)
    with use_backend('triton'):
        assert why_paths_unfused(block, x) is None
        expected = block(x, (4, 5))
        block.get_submodule(name).register_forward_hook(lambda *args: seen.append(name))
        assert 'hook' in why_paths_unfused(block, x)
        assert_near([block(x, (4, 5))], [expected.double()], TOLERANCE[torch.float32])
    assert name in seen


@pytest.mark.parametrize('products', [torch.float32, torch.float16, torch.bfloat16])
def test_trial_passes(products):
    x = torch.randn(2, 4, 48, device=DEVICE)
    with torch.inference_mode(), torch.autocast(DEVICE, products, enabled=x.dtype != products):
        assert trial.TRIAL.fault(Setting.of(x), 48, 96) is None


@pytest.mark.parametrize('name', ['norm_add', 'norm_add_backward', 'gelu_backward'])
def test_trial_finds_wrong_results(name, monkeypatch):
    right = getattr(tokenwise, name)

    def wrong(*args):
        found = right(*args)
        return found * 0.7 if name == 'norm_add' else tuple(t * 0.7 for t in found)

    monkeypatch.setattr(tokenwise, name, wrong)
    trial.TRIAL.forget()
    with pytest.warns(UserWarning, match='module by module: its kernels are wrong'):
        assert 'wrong' in trial.TRIAL.fault(Setting(torch.device(DEVICE), torch.float32), 48, 96)
    trial.TRIAL.forget()


def test_says_why_it_cannot_run():
    x = torch.empty(1, 4, 24, device=DEVICE)
    with use_backend('triton'):
        assert why_not(x, 96) is None
        assert '9000 wide' in why_not(x.new_empty(1, 4, 9000), 96)
        with torch.autocast(DEVICE, torch.bfloat16):
            assert 'wider' in why_not(x.bfloat16(), 96)
    with use_backend('sdpa'):
        assert 'sdpa' in why_not(x, 96)

"""Patch merging's kernels; test_triton.py runs this on the GPU or under Triton's interpreter."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from kernel_results import DEVICE, DTYPES, EXACT, ON_GPUS, TOLERANCE, assert_near
from kernel_results import results as results_of

from swin_backbone.layers import PatchMerging
from swin_backbone.layers.fused import why_merging_unfused
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.merging import reference, trial, triton
from swin_backbone.ops.tokenwise import triton as tokenwise
from swin_backbone.ops.trial import Setting


def results(function, inputs, products=None):
    """The output, and the gradients of all inputs."""
    return results_of(lambda: function(*inputs, eps=1e-3), inputs, products)


@settings(max_examples=30)
@given(data=st.data())
def test_agrees_with_the_reference(data):
    B, H, W = (data.draw(st.integers(low, high)) for low, high in ((0, 2), (1, 9), (1, 9)))
    C, D = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    dtype = data.draw(st.sampled_from(DTYPES))
    products = None
    if dtype == torch.float32:  # as under autocast
        products = data.draw(st.sampled_from([None, torch.float16, torch.bfloat16]))
    drawn = torch.randn(B, W, H, C), torch.randn(4 * C), torch.randn(4 * C), torch.randn(D, 4 * C)
    x, norm_weight, norm_bias, weight = (t.to(DEVICE, dtype) for t in drawn)
    inputs = [x.transpose(1, 2), norm_weight, norm_bias, weight * C**-0.5]
    inputs = [t.requires_grad_() for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    ours = results(triton.patch_merging, inputs, products)
    assert ours[0].dtype == (products or dtype) and all(t.dtype == dtype for t in ours[1:])
    assert_near(ours, results(reference.patch_merging, wide), TOLERANCE[products or dtype])


@pytest.mark.parametrize('programs', [1, 3, 1000])
def test_sums_over_groups_of_rows(programs, monkeypatch):
    monkeypatch.setattr(tokenwise, 'PROGRAMS', dict.fromkeys(tokenwise.PROGRAMS, programs))
    monkeypatch.setattr(tokenwise, 'TILE', 64)
    shapes = (2, 13, 9, 4), (16,), (16,), (8, 16)
    inputs = [torch.randn(s, device=DEVICE, requires_grad=True) for s in shapes]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    exact = results(reference.patch_merging, wide)
    assert_near(results(triton.patch_merging, inputs), exact, TOLERANCE[torch.float32])


@pytest.mark.parametrize('frozen', [False, True])
def test_layer_agrees_with_its_modules_and_keeps_its_inputs_only(frozen):
    merging = PatchMerging(6, 10).to(DEVICE, EXACT)
    for parameter in merging.parameters():
        torch.nn.init.normal_(parameter)
    merging.reduction.requires_grad_(not frozen)
    x = torch.randn(2, 35, 6, dtype=EXACT, device=DEVICE, requires_grad=True)
    trained = [t for t in (x, *merging.parameters()) if t.requires_grad]
    found, kept = [], set()
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.add(t.data_ptr()) or t, lambda t: t
        ),
        use_backend('triton'),
    ):
        assert why_merging_unfused(merging, x) is None
        ours = merging(x, (5, 7))
    assert kept == {t.data_ptr() for t in (x, *merging.parameters())}
    with use_backend('reference'):
        modules = merging(x, (5, 7))
    assert ours[1] == modules[1] == (3, 4)
    for out in (ours[0], modules[0]):
        found.append([out, *torch.autograd.grad(out.square().sum(), trained)])
    assert_near(*found, {torch.float64: 1e-11, torch.float32: 1e-4}[EXACT])


def test_hooks_on_its_modules_are_called():
    merging, seen = PatchMerging(6, 10).to(DEVICE), []
    merging.norm.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    with use_backend('triton'):
        merging(torch.randn(2, 35, 6, device=DEVICE), (5, 7))
    assert seen == [(2, 12, 24)]


@pytest.mark.parametrize(
    'options', [dict(stride=3), dict(norm_cfg=None), dict(use_post_norm=True)], ids=str
)
def test_other_mergings_run_unfused(options):
    merging = PatchMerging(6, 10, **options).to(DEVICE)
    x = torch.randn(2, 35, 6, device=DEVICE)
    found = []
    for backend in ('triton', 'reference'):
        with use_backend(backend):
            found.append(merging(x, (5, 7))[0])
    assert torch.equal(*found)


@pytest.mark.parametrize(('dtype', 'products'), ON_GPUS)
def test_trial_passes(dtype, products):
    x = torch.randn(2, 4, 4, 24, dtype=dtype, device=DEVICE)
    for autocast in {products != dtype, products != torch.float32}:
        with torch.inference_mode(), torch.autocast(DEVICE, products, enabled=autocast):
            assert trial.TRIAL.fault(Setting.of(x), 24) is None


@pytest.mark.parametrize('name', ['merge_norm', 'merge_norm_backward'])
def test_trial_finds_wrong_results(name, monkeypatch):
    right = getattr(tokenwise, name)

    def wrong(*args):
        found = right(*args)
        return found * 0.7 if name == 'merge_norm' else tuple(t * 0.7 for t in found)

    monkeypatch.setattr(tokenwise, name, wrong)
    trial.TRIAL.forget()
    with pytest.warns(UserWarning, match='module by module: its kernels are wrong'):
        assert 'wrong' in trial.TRIAL.fault(Setting(torch.device(DEVICE), torch.float32), 24)
    trial.TRIAL.forget()


def test_says_why_it_cannot_run():
    x = torch.empty(1, 2, 2, 24, device=DEVICE)
    assert triton.can_run(x) is None
    assert '12000 wide' in triton.can_run(x.new_empty(1, 3000))
    with torch.autocast(DEVICE, torch.bfloat16):
        assert 'float16' in triton.can_run(x.half())

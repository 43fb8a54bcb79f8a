"""CARAFE against its definition: mmcv has no CPU kernels of it."""

from __future__ import annotations

import sys

import pytest
import torch
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops

from swin_backbone import mmcv_ext as ours


@pytest.fixture(autouse=True, scope='module')
def _wrapper():
    """mmcv's functions call ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules['mmcv.ops.carafe'], 'ext_module', ours)
        yield


def definition(features, masks, k, groups, scale):
    (B, C, H, W), reach = features.shape, k // 2
    out = torch.zeros(B, C, H * scale, W * scale, dtype=features.dtype)
    pixels = torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).reshape(-1, 4)
    for b, c, y, x in pixels.tolist():
        for i in range(k):
            for j in range(k):
                row, column = y // scale + i - reach, x // scale + j - reach
                if 0 <= row < H and 0 <= column < W:
                    mask = masks[b, (c // (C // groups) * k + i) * k + j, y, x]
                    out[b, c, y, x] += features[b, c, row, column] * mask
    return out


@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
@settings(max_examples=6)
@given(
    batch=st.integers(1, 2),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    k=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2]),
    scale=st.integers(1, 2),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_agrees_with_the_definition(name, batch, size, k, groups, scale, dtype):
    features = torch.randn(batch, 2, *size, dtype=torch.float64, requires_grad=True)
    out_size = [n * scale for n in size]
    masks = torch.rand(batch, groups * k * k, *out_size, dtype=torch.float64, requires_grad=True)
    wanted = definition(features, masks, k, groups, scale)
    factor = torch.randn(wanted.shape, dtype=torch.float64)
    grads = torch.autograd.grad((wanted * factor).sum(), (features, masks))
    leaves = [x.detach().to(dtype).requires_grad_() for x in (features, masks)]
    if name == 'carafe':
        out = ops.carafe(*leaves, k, groups, scale)
        found = torch.autograd.grad((out * factor).sum(), leaves)
    else:  # mmcv's backward function asks for a GPU
        out = ops.carafe_naive(*leaves, k, groups, scale)
        found = [torch.zeros_like(x) for x in leaves]
        sizes = dict(kernel_size=k, group_size=groups, scale_factor=scale)
        ours.carafe_naive_backward(factor, *leaves, *found, **sizes)
    agree(out, wanted, dtype)
    for mine, theirs in zip(found, grads, strict=True):
        agree(mine, theirs, dtype)


def test_upsampler_of_mmcv():
    """It runs and is differentiated; a constant stays what it is, away from the map's edge."""
    pack = ops.CARAFEPack(4, 2, up_kernel=3)
    features = torch.ones(2, 4, 5, 6, requires_grad=True)
    out = pack(features)
    agree(out[:, :, 2:-2, 2:-2], torch.ones(2, 4, 6, 8), torch.float32)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pack.parameters())
    assert features.grad.abs().sum() > 0

"""Masked convolution against a convolution, PSANet's masks against mmcv's compiled operator."""

from __future__ import annotations

import compiled
import mmcv.ops.masked_conv
import mmcv.ops.psa_mask
import pytest
import torch
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

from swin_backbone import mmcv_ext as ours


@pytest.fixture(autouse=True, scope='module')
def _wrappers():
    """mmcv's functions call ours."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (mmcv.ops.masked_conv, mmcv.ops.psa_mask):
            patch.setattr(module, 'ext_module', ours)
        yield


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('kernel', [1, 3, (1, 3)])
def test_masked_convolution(kernel, dtype):
    padding = tuple(k // 2 for k in (kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    layer = mmcv.ops.MaskedConv2d(4, 6, kernel, padding=padding).to(dtype)
    image = torch.randn(1, 4, 7, 5, dtype=dtype)
    mask = torch.rand(1, 7, 5) > 0.5
    agree(layer(image, mask), layer(image) * mask, dtype)
    assert not layer(image, torch.zeros_like(mask)).any()


def covered(kind, size, mask_size, half):
    """Index of each output element (channel, row, column) that a mask's element is copied to."""
    (H, W), (h, w) = size, mask_size
    for y, x, i, j in torch.cartesian_prod(*map(torch.arange, (H, W, h, w))).tolist():
        row, column = y + i - half[0], x + j - half[1]
        if 0 <= row < H and 0 <= column < W:
            place = i * w + j
            if kind == 0:
                yield (row * W + column, y, x), (place, y, x)
            else:
                yield (y * W + x, row, column), (place, y, x)


def arguments(kind, input, mask_size):
    B, _, H, W = input.shape
    return dict(
        psa_type=kind,
        num_=B,
        h_feature=H,
        w_feature=W,
        h_mask=mask_size[0],
        w_mask=mask_size[1],
        half_h_mask=(mask_size[0] - 1) // 2,
        half_w_mask=(mask_size[1] - 1) // 2,
    )


@pytest.mark.parametrize('kind', [0, 1])
@settings(max_examples=10)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mask_size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_psa_masks(kind, size, mask_size):
    """Copies alone, so that nothing may differ; what no mask covers is kept."""
    masks = torch.randn(2, mask_size[0] * mask_size[1], *size)
    names = arguments(kind, masks, mask_size)
    wanted = torch.full((2, size[0] * size[1], *size), 7.0)
    out, grad = wanted.clone(), torch.randn_like(wanted)
    grad_masks = torch.full_like(masks, 7.0)
    wanted_grad = grad_masks.clone()
    half = names['half_h_mask'], names['half_w_mask']
    for to, source in covered(kind, size, mask_size, half):
        to, source = (slice(None), *to), (slice(None), *source)
        wanted[to], wanted_grad[source] = masks[source], grad[to]
    ours.psamask_forward(masks, out, **names)
    ours.psamask_backward(grad, grad_masks, **names)
    assert torch.equal(out, wanted) and torch.equal(grad_masks, wanted_grad)
    module = compiled.find()
    if module is not None:
        theirs, their_grad = torch.full_like(out, 7.0), torch.full_like(masks, 7.0)
        module.psamask_forward(masks, theirs, **names)
        module.psamask_backward(grad, their_grad, **names)
        assert torch.equal(out, theirs) and torch.equal(grad_masks, their_grad)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psa_module_of_mmcv(kind):
    masks = torch.randn(2, 15, 4, 3, dtype=torch.float64).mT.contiguous().mT.requires_grad_()
    module = mmcv.ops.PSAMask(kind, (5, 3))
    assert torch.autograd.gradcheck(module, masks)

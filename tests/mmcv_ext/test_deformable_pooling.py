"""Deformable RoI pooling against its definition: mmcv has no CPU kernel of it."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ops

from swin_backbone import mmcv_ext as ours

BINS = (2, 3)


@pytest.fixture(autouse=True, scope='module')
def _wrapper():
    """mmcv's functions call ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules['mmcv.ops.deform_roi_pool'], 'ext_module', ours)
        yield


def sample(plane, y, x):
    """As RoIAlign's: a position up to a pixel off the map is moved onto its edge."""
    H, W = plane.shape
    if not (-1 <= y <= H and -1 <= x <= W):
        return (plane * 0).sum()
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = math.floor(y.item()), math.floor(x.item())
    bottom, right = min(top + 1, H - 1), min(left + 1, W - 1)
    y, x = y - top, x - left
    above = (1 - x) * plane[top, left] + x * plane[top, right]
    below = (1 - x) * plane[bottom, left] + x * plane[bottom, right]
    return (1 - y) * above + y * below


def definition(maps, rois, offset, scale, ratio, gamma):
    (h, w), C = BINS, maps.shape[1]
    pooled = []
    for n in range(len(rois)):
        x1, y1, x2, y2 = rois[n, 1:] * scale - 0.5
        side = (y2 - y1) / h, (x2 - x1) / w
        grid = [ratio if ratio > 0 else max(math.ceil(s), 0) for s in side]
        for c, i, j in torch.cartesian_prod(*map(torch.arange, (C, h, w))).tolist():
            total = (maps * 0).sum()
            for u in range(grid[0]):
                for v in range(grid[1]):
                    y = y1 + (i + (u + 0.5) / grid[0]) * side[0]
                    x = x1 + (j + (v + 0.5) / grid[1]) * side[1]
                    if offset is not None:
                        y = y + gamma * (y2 - y1) * offset[n, 1, i, j]
                        x = x + gamma * (x2 - x1) * offset[n, 0, i, j]
                    total = total + sample(maps[int(rois[n, 0]), c], y, x)
            pooled.append(total / max(grid[0] * grid[1], 1))
    return torch.stack(pooled).view(len(rois), C, h, w)


@settings(max_examples=12)
@given(
    regions=st.integers(1, 3),
    ratio=st.integers(0, 2),
    scale=st.sampled_from([1.0, 0.25]),
    shifted=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_definition(regions, ratio, scale, shifted, dtype, seed):
    random = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.rand(size, generator=random, dtype=torch.float64)  # noqa: E731
    maps = draw(2, 2, 4, 5).requires_grad_()
    start = (draw(regions, 2) * 6 - 2) / scale
    rois = torch.cat(
        [(draw(regions, 1) * 2).floor(), start, start + draw(regions, 2) * 5 / scale], 1
    )
    offset = (draw(regions, 2, *BINS) * 6 - 3).requires_grad_() if shifted else None
    wanted = definition(maps, rois, offset, scale, ratio, 0.1)
    leaves = [maps, offset] if shifted else [maps]
    factor = draw(*wanted.shape)
    grads = torch.autograd.grad((wanted * factor).sum(), leaves)
    copies = [x.detach().to(dtype).requires_grad_() for x in leaves]
    out = ops.deform_roi_pool(
        copies[0], rois.to(dtype), copies[1] if shifted else None, BINS, scale, ratio, 0.1
    )
    agree(out, wanted, dtype)
    found = torch.autograd.grad((out * factor).sum(), copies)
    for mine, theirs in zip(found, grads, strict=True):
        agree(mine, theirs, dtype)


def test_no_regions_and_an_empty_region():
    maps = torch.randn(1, 3, 4, 4, requires_grad=True)
    pool = ops.deform_roi_pool
    assert pool(maps, torch.empty(0, 5), None, BINS).shape == (0, 3, *BINS)
    out = pool(maps, torch.tensor([[0.0, 3, 3, 1, 1], [0, 0, 0, 4, 4]]), None, BINS)
    assert not out[0].any() and out[1].any()
    assert torch.autograd.grad(out.sum(), maps)[0].isfinite().all()


@pytest.mark.parametrize('name', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
def test_layers_of_mmcv(name):
    layer = getattr(ops, name)(BINS, 3, deform_fc_channels=4)
    torch.nn.init.normal_(layer.offset_fc[-1].weight)
    maps = torch.randn(2, 3, 6, 6, requires_grad=True)
    out = layer(maps, torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 2, 5, 5]]))
    assert out.shape == (2, 3, *BINS)
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters()) and maps.grad.any()

"""Pooling of regions, against the compiled operators and by definition."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import compiled
import mmcv.ops
import pytest
import torch
from drawn import KINDS, Drawn, assert_close, seeds, types, wrappers_call
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import swin_backbone.mmcv_ext as ours
import swin_backbone.mmcv_ext.pooling as pooling
import swin_backbone.mmcv_ext.regions as regions
import swin_backbone.mmcv_ext.torchvision_ops as torchvision_ops

kinds = st.sampled_from(KINDS)
ratios = st.sampled_from([0, 0, 1, 2, 3])
scales = st.sampled_from([1.0, 0.25, 0.1])
few = settings(max_examples=30)


@pytest.fixture(scope='module')
def theirs() -> ModuleType:
    return compiled.load()


def aligned_of(ext: ModuleType, x: Tensor, rois: Tensor, bins: tuple[int, int], **options: Any):
    """Outputs of RoIAlign, the two of where maxima are, and the gradient of the map."""
    out, at_y, at_x = x.new_full((3, len(rois), x.shape[1], *bins), 9)
    options = dict(aligned_height=bins[0], aligned_width=bins[1], **options)
    ext.roi_align_forward(x, rois, out, at_y, at_x, **options)
    grad_input = torch.zeros_like(x, memory_format=torch.contiguous_format)
    grad = (torch.arange(out.numel(), dtype=x.dtype) % 7 - 2).view_as(out)
    ext.roi_align_backward(grad, rois, at_y, at_x, grad_input, **options)
    return out, at_y, at_x, grad_input


def rotated_of(ext: ModuleType, x: Tensor, rois: Tensor, bins: tuple[int, int], **options: Any):
    """Outputs of rotated RoIAlign and the gradient of the map."""
    out = x.new_full((len(rois), x.shape[1], *bins), 9)
    options = dict(pooled_height=bins[0], pooled_width=bins[1], **options)
    ext.roi_align_rotated_forward(x, rois, out, **options)
    grad_input = torch.zeros_like(x, memory_format=torch.contiguous_format)
    grad = (torch.arange(out.numel(), dtype=x.dtype) % 7 - 2).view_as(out)
    ext.roi_align_rotated_backward(grad, rois, grad_input, **options)
    return out, grad_input


@few
@given(
    seeds, types, st.integers(0, 9), kinds, scales, ratios, st.booleans(), st.sampled_from([0, 1])
)
def test_roi_align_is_the_compiled(
    theirs, seed, dtype, count, kind, scale, sampling_ratio, aligned, mode
):
    drawn = Drawn(seed, dtype)
    x = drawn.normal(2, 3, 9, 12)
    boxes = drawn.boxes(count, kind, -6 / scale, 15 / scale)  # beyond the map
    rois = drawn.regions(boxes, 2)
    options = dict(spatial_scale=scale, sampling_ratio=sampling_ratio)
    options |= dict(pool_mode=mode, aligned=aligned)
    got = aligned_of(ours, x, rois, (3, 2), **options)
    wanted = aligned_of(theirs, x, rois, (3, 2), **options)
    for i in range(4):
        assert_close(got[i], wanted[i])


@few
@given(seeds, types, st.integers(0, 9), kinds, scales, ratios, st.booleans(), st.booleans())
def test_roi_align_rotated_is_the_compiled(
    theirs, seed, dtype, count, kind, scale, sampling_ratio, aligned, clockwise
):
    drawn = Drawn(seed, dtype)
    x = drawn.normal(2, 3, 9, 12)
    rois = drawn.regions(drawn.rotated(count, kind, -6 / scale, 15 / scale), 2)
    if kind == 'grid':
        # Samples on the outer edge count or not by the last bit of a sine: the angles are moved.
        rois[:, 5] += 0.01
    options = dict(spatial_scale=scale, sampling_ratio=sampling_ratio)
    options |= dict(aligned=aligned, clockwise=clockwise)
    got = rotated_of(ours, x, rois, (3, 2), **options)
    wanted = rotated_of(theirs, x, rois, (3, 2), **options)
    for i in range(2):
        assert_close(got[i], wanted[i])


def test_layouts_and_parts_do_not_matter(monkeypatch):
    drawn = Drawn(0, torch.float64)
    x, rois = drawn.normal(3, 4, 12, 10), drawn.regions(drawn.boxes(30, high=16), 3)
    options = dict(spatial_scale=0.7, sampling_ratio=0, pool_mode=1, aligned=True)
    turned = drawn.regions(drawn.rotated(30, high=16), 3)
    rotated = dict(spatial_scale=0.7, sampling_ratio=2, aligned=True, clockwise=True)
    wanted = aligned_of(ours, x, rois, (2, 3), **options)
    wanted_rotated = rotated_of(ours, x, turned, (2, 3), **rotated)
    wanted_pooled = pooled_of(x, rois, (2, 3), 0.7)
    monkeypatch.setattr(regions, 'TAPS', 64)
    monkeypatch.setattr(pooling, 'NUMBERS', 64)
    strided = x.contiguous(memory_format=torch.channels_last)
    columns = torch.stack([rois, rois], -1)[..., 0]
    got = aligned_of(ours, strided, columns, (2, 3), **options)
    got_rotated = rotated_of(ours, strided, turned.t().contiguous().t(), (2, 3), **rotated)
    for a, b in zip(got, wanted, strict=True):
        assert_close(a, b)
    for a, b in zip(got_rotated, wanted_rotated, strict=True):
        assert_close(a, b)
    for a, b in zip(pooled_of(strided, columns, (2, 3), 0.7), wanted_pooled, strict=True):
        assert torch.equal(a, b)


def test_roi_align_by_hand():
    """The map is ``x + 10 y``, so that a mean of samples is the value at the middle of a bin."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing='ij')
    image = (x + 10 * y)[None, None]
    rois = torch.tensor([[0, 1, 2, 5, 6.0], [0, 2, 2, 2, 2], [0, 20, 20, 24, 24]])
    for ratio in (0, 1, 3):
        options = dict(spatial_scale=1.0, sampling_ratio=ratio, pool_mode=1, aligned=True)
        out = aligned_of(ours, image, rois, (2, 2), **options)[0]
        assert_close(out[0, 0], torch.tensor([[26.5, 28.5], [46.5, 48.5]]))
        empty = 0 if ratio == 0 else 16.5  # a point has no samples, or all at one place
        assert_close(out[1:, 0], torch.tensor([empty, 0.0])[:, None, None].expand(2, 2, 2))
    out, at_y, at_x, grad = aligned_of(
        ours,
        image,
        rois[:1],
        (1, 1),
        spatial_scale=1.0,
        sampling_ratio=2,
        pool_mode=0,
        aligned=True,
    )
    assert (out.item(), at_y.item(), at_x.item()) == (48.5, 4.5, 3.5)
    assert grad[0, 0, 4:6, 3:5].tolist() == [[-0.5, -0.5], [-0.5, -0.5]]  # of -2


def test_aligned_regions_have_no_negative_sides(theirs):
    x, rois = torch.zeros(1, 1, 4, 4), torch.tensor([[0, 3, 0, 1, 2.0]])
    options = dict(spatial_scale=1.0, sampling_ratio=2, pool_mode=1, aligned=True)
    for ext in (ours, theirs):
        with pytest.raises(RuntimeError):
            aligned_of(ext, x, rois, (1, 1), **options)
    options['aligned'] = False  # grows to one cell
    assert_close(aligned_of(ours, x + 3, rois, (1, 1), **options)[0], torch.full((1, 1, 1, 1), 3.0))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', [0, 1])
def test_half_precision_is_computed_with_in_float32(dtype: torch.dtype, mode: int):
    drawn = Drawn(6)
    x = drawn.normal(2, 3, 9, 12).to(dtype)
    rois = drawn.regions(drawn.boxes(6, 'grid', 0, 12), 2)
    options = dict(spatial_scale=0.5, sampling_ratio=2, pool_mode=mode, aligned=True)
    got = aligned_of(ours, x, rois, (3, 2), **options)
    wanted = aligned_of(ours, x.float(), rois, (3, 2), **options)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        assert_close(a, b.to(dtype))
    values, at, _ = pooled_of(x, rois, (2, 2), 0.5)
    wanted_values, wanted_at, _ = pooled_of(x.float(), rois, (2, 2), 0.5)
    assert torch.equal(values, wanted_values.to(dtype)) and torch.equal(at, wanted_at)


def pooled_of(x: Tensor, rois: Tensor, bins: tuple[int, int], scale: float):
    """Outputs of RoIPool, where they are, and the gradient of the map."""
    out = x.new_full((len(rois), x.shape[1], *bins), 9)
    at = torch.full(out.shape, 9, dtype=torch.int32)
    options = dict(pooled_height=bins[0], pooled_width=bins[1], spatial_scale=scale)
    ours.roi_pool_forward(x, rois, out, at, **options)
    grad_input = torch.zeros_like(x, memory_format=torch.contiguous_format)
    grad = (torch.arange(out.numel()) % 7 - 2).view_as(out).to(x.dtype)
    ours.roi_pool_backward(grad, rois, at, grad_input, **options)
    return out, at, grad_input


@few
@given(seeds, types, st.integers(0, 6), kinds, st.sampled_from([1.0, 0.25]))
def test_roi_pool_in_loops(seed, dtype, count, kind, scale):
    """The compiled module has no RoIPool for a CPU."""
    drawn = Drawn(seed, dtype)
    x = (drawn.normal(2, 2, 7, 9) * 3).round()  # with equal cells
    rois = drawn.regions(drawn.boxes(count, kind, -5 / scale, 12 / scale), 2)
    if count:
        rois[0, 3] = rois[0, 1] - 2 / scale  # of negative width
    rows, columns = bins = (3, 2)
    out, at = torch.zeros(count, 2, *bins, dtype=dtype), torch.full((count, 2, *bins), -1)
    wanted_grad = torch.zeros_like(x)
    for n, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for c, i, j in ((c, i, j) for c in range(2) for i in range(rows) for j in range(columns)):
            h, w = (y2 - y1) / rows, (x2 - x1) / columns
            cells = [
                (x[int(image), c, y, z].item(), -y * 9 - z)
                for y in range(7)
                for z in range(9)
                if math.floor(i * h + y1) <= y < math.ceil((i + 1) * h + y1)
                and math.floor(j * w + x1) <= z < math.ceil((j + 1) * w + x1)
            ]
            if cells and w > 0 and h > 0:
                value, place = max(cells)  # the first of the highest
                out[n, c, i, j], at[n, c, i, j] = value, -place
                index = ((n * 2 + c) * rows + i) * columns + j
                wanted_grad[int(image), c].view(-1)[-place] += index % 7 - 2
    got, got_at, grad = pooled_of(x, rois, bins, scale)
    assert torch.equal(got, out)
    assert torch.equal(got_at.long(), at)
    assert_close(grad, wanted_grad)


POOLERS = [
    pytest.param('roi_align', mmcv.ops.RoIAlign, dict(sampling_ratio=2), id='two samples'),
    pytest.param('roi_align', mmcv.ops.RoIAlign, dict(sampling_ratio=0), id='as many as cells'),
    pytest.param('roi_align', mmcv.ops.RoIAlign, dict(aligned=False), id='not aligned'),
    pytest.param('roi_align', mmcv.ops.RoIAlign, dict(pool_mode='max'), id='maximum'),
    pytest.param('roi_align_rotated', mmcv.ops.RoIAlignRotated, dict(), id='rotated'),
    pytest.param('roi_pool', mmcv.ops.RoIPool, dict(), id='RoIPool'),
]


@pytest.mark.parametrize(('module', 'cls', 'options'), POOLERS)
def test_modules_call_either(module: str, cls: type, options: dict):
    """The gradient is that of the finite differences, and both are the compiled operators'."""
    drawn = Drawn(8, torch.float64)
    x = drawn.normal(2, 2, 5, 6).requires_grad_()
    boxes = drawn.rotated(3, high=20) if 'rotated' in module else drawn.boxes(3, high=20)
    rois = drawn.regions(boxes, 2)
    grad = drawn.normal(3, 3, 2, 2).permute(0, 3, 2, 1)  # not contiguous
    layer = cls((2, 3), spatial_scale=0.25, **options)
    with wrappers_call(module, ours):
        assert torch.autograd.gradcheck(lambda x: layer(x, rois), x)
        assert layer(x, rois[:0]).shape == (0, 2, 2, 3)
        out = layer(x, rois)
        grad_input = torch.autograd.grad(out, x, grad)[0]
    if module == 'roi_pool':
        return  # not compiled for a CPU
    with wrappers_call(module, compiled.load()):
        wanted = layer(x, rois)
        assert_close(out, wanted)
        assert_close(grad_input, torch.autograd.grad(wanted, x, grad)[0])


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
def test_torchvision_computes_the_same(monkeypatch, ratio: int, aligned: bool):
    """It is called on CUDA alone, where it is the faster."""
    drawn = Drawn(9)
    x, rois = drawn.normal(2, 3, 9, 12), drawn.regions(drawn.boxes(20, 'flat', -6, 15), 2)
    boxes, scores = drawn.boxes(300), drawn.scores(300, 5)
    options = dict(spatial_scale=0.7, sampling_ratio=ratio, pool_mode=1, aligned=aligned)
    wanted = aligned_of(ours, x, rois, (3, 2), **options)
    kept = ours.nms(boxes, scores, 0.3, 0)
    monkeypatch.setattr(torchvision_ops, 'DEVICES', {'cpu'})
    if torchvision_ops.operator('nms', x) is None:
        pytest.skip('torchvision is not installed, or its operators do not fit this torch')
    for a, b in zip(aligned_of(ours, x, rois, (3, 2), **options), wanted, strict=True):
        assert_close(a, b)
    assert torch.equal(ours.nms(boxes, scores, 0.3, 0), kept)

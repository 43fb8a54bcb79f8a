"""Multi-scale deformable attention against mmcv's definition in PyTorch, its path on a CPU."""

from __future__ import annotations

import mmcv.ops.multi_scale_deform_attn
import pytest
import torch
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttention,
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from swin_backbone import mmcv_ext as ours


@pytest.fixture(autouse=True, scope='module')
def _wrapper():
    """mmcv's function calls ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmcv.ops.multi_scale_deform_attn, 'ext_module', ours)
        yield


def inputs(shapes, batch, queries, heads, width, points, dtype=torch.float64):
    """Value, shapes, starts, locations (some off the maps) and attention."""
    shapes = torch.tensor(shapes)
    sizes = shapes.prod(1)
    value = torch.randn(batch, int(sizes.sum()), heads, width, dtype=dtype)
    at = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=dtype) * 1.6 - 0.3
    attention = torch.rand(at.shape[:-1], dtype=dtype)
    return value, shapes, sizes.cumsum(0) - sizes, at, attention


def both(value, shapes, starts, at, attention):
    """Output and gradients of ours and of the definition."""
    for function in (
        lambda v, a, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, a, w, 64),
        lambda v, a, w: multi_scale_deformable_attn_pytorch(v, shapes, a, w),
    ):
        leaves = [x.clone().requires_grad_() for x in (value, at, attention)]
        out = function(*leaves)
        factor = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        yield (out, *torch.autograd.grad((out * factor).sum(), leaves))


@settings(max_examples=20)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    points=st.integers(1, 3),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_definition(shapes, batch, queries, heads, points, dtype, seed):
    torch.manual_seed(seed)
    drawn = inputs(shapes, batch, queries, heads, 3, points, dtype)
    for mine, theirs in zip(*both(*drawn), strict=True):
        agree(mine, theirs, dtype)


def test_batches_in_parts(monkeypatch):
    drawn = inputs([(3, 4), (2, 2)], 3, 2, 2, 4, 2)
    parts = [slice(0, 2), slice(2, 3)]
    monkeypatch.setattr(ours.deformable_attention, 'batches', lambda *_: parts)
    for mine, theirs in zip(*both(*drawn), strict=True):
        agree(mine, theirs)


def test_gradients_are_added_or_written():
    """The value's gradient is added, as CUDA's atomics do; the others are written."""
    value, shapes, starts, at, attention = inputs([(3, 3)], 1, 2, 1, 2, 2)
    found = []
    for before in (0.0, 1.0):
        grads = [torch.full_like(x, before) for x in (value, at, attention)]
        grad = torch.ones(1, 2, 2, dtype=torch.float64)
        ours.ms_deform_attn_backward(
            value, shapes, starts, at, attention, grad, *grads, im2col_step=64
        )
        found.append(grads)
    agree(found[1][0], found[0][0] + 1)
    agree(found[1][1], found[0][1])
    agree(found[1][2], found[0][2])


def test_no_queries():
    value, shapes, starts, at, attention = inputs([(3, 3)], 2, 0, 2, 4, 2)
    out = ours.ms_deform_attn_forward(value, shapes, starts, at, attention, im2col_step=64)
    assert out.shape == (2, 0, 8)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    value, shapes, starts, at, attention = inputs([(3, 4)], 1, 3, 2, 4, 2, dtype)
    out = ours.ms_deform_attn_forward(value, shapes, starts, at, attention, im2col_step=64)
    wide = (x.float() for x in (value, at, attention))
    wanted = multi_scale_deformable_attn_pytorch(next(wide), shapes, *wide)
    assert out.dtype == dtype
    agree(out, wanted, dtype)


def test_module_of_mmcv(monkeypatch):
    """The module as it runs on a GPU, where it calls the operator."""
    module = MultiScaleDeformableAttention(16, num_heads=2, num_levels=2, num_points=3)
    torch.nn.init.normal_(module.sampling_offsets.weight)
    shapes = torch.tensor([(4, 3), (2, 2)])
    feed = dict(
        query=torch.randn(5, 2, 16),
        value=torch.randn(16, 2, 16),
        reference_points=torch.rand(2, 5, 2, 2),
        spatial_shapes=shapes,
        level_start_index=torch.tensor([0, 12]),
    )
    wanted = module.eval()(**feed)
    monkeypatch.setattr(
        mmcv.ops.multi_scale_deform_attn,
        'multi_scale_deformable_attn_pytorch',
        lambda value, shapes, at, attention: MultiScaleDeformableAttnFunction.apply(
            value, shapes, feed['level_start_index'], at, attention, 64
        ),
    )
    agree(module(**feed), wanted, torch.float32)

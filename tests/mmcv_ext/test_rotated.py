"""Rotated boxes, against the compiled operators and against sums over a fine grid."""

from __future__ import annotations

import math
from types import ModuleType

import compiled
import mmcv.ops
import pytest
import torch
from drawn import KINDS, Drawn, assert_close, seeds, wrappers_call
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import swin_backbone.mmcv_ext as ours

kinds = st.sampled_from(KINDS)
few = settings(max_examples=25)


@pytest.fixture(scope='module')
def theirs() -> ModuleType:
    return compiled.load()


def overlaps(a: Tensor, b: Tensor, mode: int = 0) -> Tensor:
    ious = a.new_empty(len(a) * len(b))
    ours.box_iou_rotated(a, b, ious, mode, False)
    return ious.view(len(a), len(b))


@few
@given(seeds, st.integers(0, 9), kinds, st.booleans(), st.integers(0, 1))
def test_box_iou_rotated_is_the_compiled(theirs, seed, count, kind, aligned, mode):
    drawn = Drawn(seed)
    a, b = drawn.rotated(count, kind), drawn.rotated(count if aligned else 5, kind)
    got, wanted = torch.zeros(2, count if aligned else count * 5)
    for ext, ious in ((ours, got), (theirs, wanted)):
        ext.box_iou_rotated(a, b, ious, mode_flag=mode, aligned=aligned)
    assert_close(got, wanted)


# Thresholds that boxes on a grid do not meet: the compiled operator rounds corners to float32.
@few
@given(seeds, st.integers(0, 100), kinds, st.sampled_from([0.1003, 0.3141, 0.7007]), st.booleans())
def test_nms_rotated_is_the_compiled(theirs, seed, count, kind, threshold, labelled):
    drawn = Drawn(seed)
    dets, scores = drawn.rotated(count, kind), drawn.scores(count, 10)
    labels = drawn.index(count, 3)
    if labelled:
        dets = torch.cat([dets, labels[:, None]], 1)
    order = scores.sort(descending=True)[1]
    arguments = (dets, scores, order, dets[order], labels, threshold, int(labelled))
    assert ours.nms_rotated(*arguments).tolist() == theirs.nms_rotated(*arguments).tolist()


@pytest.mark.parametrize('clockwise', [False, True])
def test_public_functions_call_either(theirs, clockwise: bool):
    drawn = Drawn(4)
    a, b, scores, labels = *drawn.rotated(40).split(20), drawn.scores(20, None), drawn.index(20, 2)
    ious, kept = [], []
    for ext in (ours, theirs):
        with wrappers_call('box_iou_rotated', ext), wrappers_call('nms', ext):
            ious.append(mmcv.ops.box_iou_rotated(a, b, 'iof', clockwise=clockwise))
            kept.append(mmcv.ops.nms_rotated(a, scores, 0.2, labels, clockwise)[1].tolist())
    assert_close(*ious)
    assert kept[0] == kept[1]


def test_known_overlaps():
    root = math.sqrt(0.5)
    square = torch.tensor([[1.0, 2, 2, 2, 0]], dtype=torch.float64)
    others = torch.tensor(
        [
            [1, 2, 2, 2, math.pi / 2],  # itself, turned
            [1, 2, 2, 2, math.pi / 4],  # an octagon is shared
            [2, 2, 2, 2, 0],  # half of it
            [3, 2, 2, 2, 0],  # a side is shared
            [9, 9, 2, 2, 1],
            [1, 2, 2 * root, 2 * root, math.pi / 4],  # inside
            [1, 2, 0, 2, 0],  # without an area
            [1, 2, -2, 2, 0],
        ],
        dtype=torch.float64,
    )
    octagon = 8 * (math.sqrt(2) - 1)
    wanted = [1, octagon / (8 - octagon), 1 / 3, 0, 0, 0.5, 0, 0]
    assert_close(overlaps(square, others)[0], torch.tensor(wanted, dtype=torch.float64))
    assert_close(overlaps(others, square)[:, 0], torch.tensor(wanted, dtype=torch.float64))
    assert_close(overlaps(others[5:6], square, mode=1)[0], torch.ones(1, dtype=torch.float64))
    small = square * torch.tensor([1, 1, 1e-4, 1e-4, 1])  # where the compiled operators fail
    moved = small + torch.tensor([1e-4, 0, 0, 0, 0])
    assert_close(overlaps(small, moved), torch.full((1, 1), 1 / 3, dtype=torch.float64), 1e-9)


def test_overlaps_by_counting_points():
    boxes = Drawn(5, torch.float64).rotated(12, high=20)
    y, x = torch.meshgrid(*[torch.linspace(-30, 50, 801, dtype=torch.float64)] * 2, indexing='ij')
    inside = []
    for cx, cy, w, h, angle in boxes.tolist():
        dx, dy = x - cx, y - cy
        along = dx * math.cos(angle) + dy * math.sin(angle)
        across = dy * math.cos(angle) - dx * math.sin(angle)
        inside.append((along.abs() <= w / 2) & (across.abs() <= h / 2))
    counts = torch.stack(inside).flatten(1).double()
    shared = counts @ counts.T
    areas = shared.diagonal()
    assert_close(overlaps(boxes, boxes), shared / (areas[:, None] + areas - shared), 0.02)


def test_nothing_is_shared_between_no_boxes():
    none, one = torch.zeros(0, 5), torch.ones(1, 5)
    for a, b in ((none, one), (one, none), (none, none)):
        ours.box_iou_rotated(a, b, torch.zeros(0), 0, False)
    index = torch.zeros(0, dtype=torch.long)
    kept = ours.nms_rotated(none, torch.zeros(0), index, none, index, 0.5, 0)
    assert kept.shape == (0,) and kept.dtype == torch.long

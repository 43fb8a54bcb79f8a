"""Quadrilaterals, against the compiled operators and by definition."""

from __future__ import annotations

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


def quadrilaterals(drawn: Drawn, count: int, kind: str) -> Tensor:
    """Rotated boxes as corners, with corners that are moved unless on a grid or exact."""
    x, y, w, h, angle = drawn.rotated(count, kind).unbind(1)
    corners = []
    for along, across in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u, v = along * w / 2, across * h / 2
        corners += [x + u * angle.cos() - v * angle.sin(), y + u * angle.sin() + v * angle.cos()]
    moves = drawn.normal(count, 8)
    return torch.stack(corners, 1) + (moves / 2 if kind in ('real', 'flat') else 0)


@few
@given(seeds, st.integers(0, 9), kinds, st.booleans(), st.integers(0, 1))
def test_box_iou_quadri_is_the_compiled(theirs, seed, count, kind, aligned, mode):
    drawn = Drawn(seed)
    a, b = (quadrilaterals(drawn, n, kind) for n in (count, count if aligned else 5))
    got, wanted = torch.zeros(2, count if aligned else count * 5)
    for ext, ious in ((ours, got), (theirs, wanted)):
        ext.box_iou_quadri(a, b, ious, mode_flag=mode, aligned=aligned)
    assert_close(got, wanted)


def test_nms_quadri_calls_either(theirs):
    drawn = Drawn(0)
    quads, scores = quadrilaterals(drawn, 60, 'real'), drawn.scores(60, 10)
    kept = []
    for ext in (ours, theirs):
        with wrappers_call('nms', ext):
            kept.append(mmcv.ops.nms_quadri(quads, scores, 0.2)[1].tolist())
            kept.append(mmcv.ops.nms_quadri(quads, scores, 0.2, drawn.index(60, 2))[1].tolist())
    assert kept[0] == kept[1] == kept[2] == kept[3]


def test_known_overlaps():
    square = torch.tensor([[0.0, 0, 2, 0, 2, 2, 0, 2]])
    others = [
        square[0].tolist(),
        [0, 2, 2, 2, 2, 0, 0, 0],  # the other way around
        [1, 0, 3, 0, 3, 2, 1, 2],
        [1, -1, 3, 1, 1, 3, -1, 1],  # around it
        [2, 0, 4, 0, 4, 2, 2, 2],  # a side is shared
        [0, 0, 1, 1, 2, 2, 1, 1],  # without an area
    ]
    ious = torch.empty(6, dtype=torch.float64)
    ours.box_iou_quadri(square.double(), torch.tensor(others).double(), ious, 0, False)
    assert_close(ious, torch.tensor([1, 1, 1 / 3, 0.5, 0, 0], dtype=torch.float64), 1e-8)


def test_points_in_polygons():
    """The compiled module has this for CUDA alone."""
    drawn = Drawn(1)
    boxes = drawn.rotated(6)
    points = drawn.uniform(200, 2, low=-5, high=60)
    x, y, w, h, angle = boxes.unbind(1)
    dx, dy = points[:, :1] - x, points[:, 1:] - y
    along = dx * angle.cos() + dy * angle.sin()
    across = dy * angle.cos() - dx * angle.sin()
    wanted = (along.abs() < w / 2) & (across.abs() < h / 2)
    with wrappers_call('points_in_polygons', ours):
        inside = mmcv.ops.points_in_polygons(points, quadrilaterals(Drawn(1), 6, 'exact'))
        assert inside.dtype == torch.float32
        assert torch.equal(inside.bool(), wanted)
        square = torch.tensor([[0.0, 0, 2, 0, 2, 2, 0, 2]])
        tried = torch.tensor([[1.0, 1], [3, 1], [-1, 1], [1, 2.1]])
        assert mmcv.ops.points_in_polygons(tried, square).tolist() == [[1], [0], [0], [0]]
        assert mmcv.ops.points_in_polygons(tried[:0], square).shape == (0, 1)

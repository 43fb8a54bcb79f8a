"""Suppression and overlap of boxes, against the compiled operators and by definition."""

from __future__ import annotations

from types import ModuleType

import compiled
import mmcv.ops
import pytest
import torch
from drawn import KINDS, Drawn, assert_close, seeds, types, wrappers_call
from hypothesis import given, settings
from hypothesis import strategies as st

import swin_backbone.mmcv_ext as ours

thresholds = st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0])
kinds = st.sampled_from(KINDS)
steps = st.sampled_from([None, 1, 3, 10])
few = settings(max_examples=25)


@pytest.fixture(scope='module')
def theirs() -> ModuleType:
    return compiled.load()


def iou(a: list[float], b: list[float], offset: int) -> float:
    """Intersection over union of two boxes."""
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


@few
@given(seeds, st.integers(1, 250), kinds, steps, thresholds, st.integers(0, 1))
def test_nms_is_the_compiled(theirs, seed, count, kind, steps, threshold, offset):
    drawn = Drawn(seed)
    boxes, scores = drawn.boxes(count, kind), drawn.scores(count, steps)
    got = ours.nms(boxes, scores, iou_threshold=threshold, offset=offset)
    wanted = theirs.nms(boxes, scores, iou_threshold=threshold, offset=offset)
    assert got.tolist() == wanted.tolist() and got.dtype == wanted.dtype


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('count', [0, 1, 200])
def test_nms_in_loops(count: int, offset: int):
    """In float64, which the compiled operator does not take, and of columns of a larger tensor."""
    drawn = Drawn(0, torch.float64)
    dets = torch.cat([drawn.scores(count, 10)[:, None], drawn.boxes(count)], 1)
    boxes, scores = dets[:, 1:], dets[:, 0]
    listed = boxes.tolist()
    kept: list[int] = []
    for i in scores.sort(descending=True)[1].tolist():
        if all(iou(listed[i], listed[j], offset) <= 0.3 for j in kept):
            kept.append(i)
    assert ours.nms(boxes, scores, 0.3, offset).tolist() == kept


def test_nms_suppresses_above_the_threshold():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 4], [10, 10, 12, 12]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1])
    assert ours.nms(boxes, scores, 0.5, 0).tolist() == [0, 1, 3]
    assert ours.nms(boxes, scores, 0.49, 0).tolist() == [0, 3]
    assert ours.nms(boxes.half(), scores.half(), 0.5, 0).tolist() == [0, 1, 3]
    assert ours.nms(boxes.bfloat16(), scores.bfloat16(), 0.5, 0).tolist() == [0, 1, 3]


@few
@given(seeds, st.integers(1, 150), kinds, steps, thresholds)
def test_nms_match_is_the_compiled(theirs, seed, count, kind, steps, threshold):
    drawn = Drawn(seed)
    dets = torch.cat([drawn.boxes(count, kind), drawn.scores(count, steps)[:, None]], 1)
    assert ours.nms_match(dets, iou_threshold=threshold) == theirs.nms_match(dets, threshold)


def test_nms_match_groups_what_a_box_suppresses():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 10, 10], [0, 0, 3, 4]])
    dets = torch.cat([boxes, torch.tensor([[0.1], [0.9], [0.5], [0.3]])], 1)
    assert ours.nms_match(dets, 0.5) == [[1, 0], [2], [3]]
    assert ours.nms_match(dets[:0], 0.5) == []


@few
@given(
    seeds,
    st.integers(0, 40),
    kinds,
    steps,
    thresholds,
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([0.0, 0.001, 0.2]),
)
def test_softnms_is_the_compiled(
    theirs, seed, count, kind, steps, threshold, method, offset, min_score
):
    drawn = Drawn(seed)
    boxes, scores = drawn.boxes(count, kind), drawn.scores(count, steps)
    options = dict(iou_threshold=threshold, sigma=0.5, min_score=min_score)
    options |= dict(method=method, offset=offset)
    got, wanted = torch.full((2, count, 5), 7.0)  # rows that are not written stay
    indices = ours.softnms(boxes, scores, got, **options)
    assert indices.tolist() == theirs.softnms(boxes, scores, wanted, **options).tolist()
    assert_close(got, wanted)


def test_softnms_lowers_scores():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [10, 10, 12, 12]])
    scores = torch.tensor([0.5, 0.8, 0.6])
    dets = torch.empty(3, 5)
    for method, lowered in enumerate([None, 0.25, 0.5 * 0.60653]):  # exp(-0.5² / 0.5)
        index = ours.softnms(boxes, scores, dets, 0.5, 0.5, 0.01, method, 0)
        kept = [1, 2] if lowered is None else [1, 2, 0]
        assert index.tolist() == kept
        assert_close(dets[: len(kept), :4], boxes[kept])
        if lowered is not None:
            assert_close(dets[:, 4], torch.tensor([0.8, 0.6, lowered]))
    assert scores.tolist() == torch.tensor([0.5, 0.8, 0.6]).tolist()


@few
@given(seeds, st.integers(0, 9), kinds, types, st.booleans(), st.integers(0, 1), st.integers(0, 1))
def test_bbox_overlaps_is_the_compiled(theirs, seed, count, kind, dtype, aligned, mode, offset):
    drawn = Drawn(seed, dtype)
    a, b = drawn.boxes(count, kind), drawn.boxes(count if aligned else 5, kind)
    got, wanted = torch.zeros(2, *((count,) if aligned else (count, 5)), dtype=dtype)
    for ext, ious in ((ours, got), (theirs, wanted)):
        ext.bbox_overlaps(a, b, ious, mode=mode, aligned=aligned, offset=offset)
    assert_close(got, wanted)


def test_bbox_overlaps_by_definition():
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [9, 9, 9, 9]])
    b = torch.tensor([[0.0, 0, 4, 2], [5, 5, 6, 6]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        ious = torch.empty(3, 2, dtype=dtype)
        ours.bbox_overlaps(a.to(dtype), b.to(dtype), ious, 0, False, 0)
        assert ious.tolist() == [[0.5, 0], [0.5, 0], [0, 0]]
    foreground = torch.empty(3, 2)
    ours.bbox_overlaps(a, b, foreground, 1, False, 1)
    assert_close(foreground, torch.tensor([[0.6, 0], [1, 0], [0, 0]]))


@pytest.mark.parametrize('nms', ['nms', 'soft_nms'])
@pytest.mark.parametrize('agnostic', [False, True])
def test_batched_nms_calls_either(theirs, nms: str, agnostic: bool):
    drawn = Drawn(1)
    boxes, scores, classes = drawn.boxes(120), drawn.scores(120, None), drawn.index(120, 3)
    outs = []
    for ext in (ours, theirs):
        with wrappers_call('nms', ext):
            config = dict(type=nms, iou_threshold=0.4)
            outs.append(mmcv.ops.batched_nms(boxes, scores, classes, config, agnostic))
    assert outs[0][1].tolist() == outs[1][1].tolist()
    assert_close(outs[0][0], outs[1][0])


def test_public_functions_call_these():
    boxes, scores = Drawn(2).boxes(60), Drawn(3).scores(60, None)
    empty, none = boxes[:0], scores[:0]
    with wrappers_call('nms', ours):
        dets, index = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.2, max_num=9)
        assert len(index) == len(dets) == 9 and (scores[index] > 0.2).all()
        arrays = mmcv.ops.nms(boxes.numpy(), scores.numpy(), 0.5)
        assert len(arrays[0]) == len(arrays[1]) and arrays[0].shape[1] == 5
        assert mmcv.ops.nms(empty, none, 0.5)[0].shape == (0, 5)
        assert mmcv.ops.soft_nms(empty, none)[0].shape == (0, 5)
        assert len(mmcv.ops.soft_nms(boxes, scores.requires_grad_())[0])
        assert sum(map(len, mmcv.ops.nms_match(dets, 0.3))) == 9

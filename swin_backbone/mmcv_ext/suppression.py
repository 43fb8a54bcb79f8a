"""Non-maximum suppression: ``nms``, ``softnms`` and ``nms_match``.

Boxes are sorted by ``scores.sort(descending=True)``, like in the compiled operators, so that equal
scores have the same order. Thresholds are rounded to float32, as in the compiled operators. Boxes
in half precision are computed in float32; the compiled operators only take float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calling import wide
from .overlaps import Pairs, rounded
from .torchvision_ops import operator

# From two sets of indices (M,), (N,): whether boxes of the first suppress those of the second, (M,
# N).
Suppresses = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _first_fit(suppresses: np.ndarray) -> list[int]:
    """The kept boxes of a block, from a matrix ``(N, N)``: does box i suppress box j?"""
    bits = np.packbits(suppresses, axis=1, bitorder='little')
    rows = bits.tobytes()
    width = bits.shape[1]
    kept, gone = [], 0  # `gone` has one bit per box
    for i in range(len(suppresses)):
        if not gone >> i & 1:
            kept.append(i)
            gone |= int.from_bytes(rows[i * width : (i + 1) * width], 'little')
    return kept


def greedy(count: int, suppresses: Suppresses, block: int) -> np.ndarray[Any, Any]:
    """The kept boxes, out of ``count`` boxes in descending order of scores.

    A box is kept unless a kept box before it suppresses it. Boxes are decided in blocks, whose kept
    boxes then suppress the remaining boxes, so that memory is linear in the number of boxes.
    """
    waiting = np.arange(count)
    kept = [waiting[:0]]
    while len(waiting):
        rows, waiting = waiting[:block], waiting[block:]
        rows = rows[_first_fit(suppresses(rows, rows))]
        kept.append(rows)
        if len(waiting):
            waiting = waiting[~suppresses(rows, waiting).any(0)]
    return np.concatenate(kept)


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression.

    Args:
        boxes: Boxes ``(N, 4)`` as ``(x1, y1, x2, y2)``.
        scores: Scores ``(N,)``.
        iou_threshold: Intersection over union above which a box is suppressed.
        offset: Added to each width and height, 0 or 1.

    Returns:
        Indices in descending order of scores.
    """
    if not len(boxes):
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    order = scores.sort(0, descending=True)[1]
    boxes = wide(boxes)[order]
    threshold = rounded(iou_threshold)
    compiled = None if offset else operator('nms', boxes)
    if compiled is not None:
        # Ranks instead of scores, as torchvision orders equal scores differently.
        ranks = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float64)
        return order[compiled(boxes, ranks.to(boxes.dtype), threshold)]
    shares = Pairs(boxes, offset)
    kept = greedy(len(boxes), lambda i, j: shares(i, j) > threshold, shares.block)
    return order[torch.from_numpy(kept).to(order.device)]


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: a kept box, followed by the boxes that it suppresses.

    Args:
        dets: Boxes with scores ``(N, 5)``.
        iou_threshold: Least intersection over union at which a box is suppressed.

    Returns:
        A list of indices per kept box, all in descending order of scores.
    """
    if not len(dets):
        return []
    order = dets[:, 4].contiguous().sort(0, descending=True)[1]
    shares = Pairs(wide(dets)[order, :4], 0)
    threshold = rounded(iou_threshold)
    numbers = order.cpu().numpy()
    waiting = np.arange(len(dets))
    groups = []
    while len(waiting):
        # Not in blocks: each kept box lists the boxes that it suppresses.
        first, waiting = waiting[:1], waiting[1:]
        joins = shares(first, waiting)[0] >= threshold
        groups.append(numbers[np.concatenate([first, waiting[joins]])].tolist())
        waiting = waiting[~joins]
    return groups


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lowers the scores of boxes by their overlap with boxes of higher scores.

    Bodla et al., Soft-NMS, 2017. Repeatedly, the box with the highest score is taken, the scores of
    the remaining boxes are multiplied by a weight that depends on their overlap with it, and boxes
    below ``min_score`` are dropped.

    Args:
        boxes: Boxes ``(N, 4)`` as ``(x1, y1, x2, y2)``.
        scores: Scores ``(N,)``.
        dets: Overwritten with the taken boxes and their lowered scores, ``(N, 5)``.
        iou_threshold: Least intersection over union at which methods 0 and 1 lower a score.
        sigma: Width of method 2.
        min_score: Boxes with lower scores are dropped.
        method: The weight: 0 (naive), 0; 1 (linear), ``1 - iou``; 2 (gaussian),
            ``exp(-iou² / sigma)``.
        offset: Added to each width and height, 0 or 1.

    Returns:
        The indices of the taken boxes, ``(M,)``. Later rows of ``dets`` are not changed.
    """
    boxes, scores = wide(boxes).detach().cpu(), scores.detach().cpu()
    left = len(boxes)
    table = np.empty((7, left), boxes.numpy().dtype)
    table[:4], table[4] = boxes.numpy().T, scores.numpy()
    x1, y1, x2, y2, score, areas, index = table
    kind = table.dtype.type
    areas[:] = (x2 - x1 + kind(offset)) * (y2 - y1 + kind(offset))
    index[:] = np.arange(left)  # exact in float32 up to 16 million boxes
    threshold, width, lowest = (kind(rounded(v)) for v in (iou_threshold, sigma, min_score))
    taken = 0
    while taken < left:
        best = taken + _highest(score[taken:left])
        table[:, [taken, best]] = table[:, [best, taken]]
        i, rest = taken, slice(taken + 1, left)
        taken += 1
        w = np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]) + kind(offset)
        h = np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]) + kind(offset)
        intersection = np.maximum(w, 0) * np.maximum(h, 0)
        with np.errstate(divide='ignore', invalid='ignore'):  # boxes without an area
            share = intersection / (areas[i] + areas[rest] - intersection)
            if method == 2:
                score[rest] *= np.exp(-(share * share) / width)
            else:
                lowered = kind(0) if method == 0 else kind(1) - share
                score[rest] *= np.where(share >= threshold, lowered, kind(1))
        dropped = score[rest] < lowest
        if dropped.any():
            # The last boxes replace the dropped ones, as in the compiled operator: this determines
            # the order of equal scores.
            stay = np.flatnonzero(~dropped)
            holes = np.flatnonzero(dropped[: len(stay)])
            last = stay[len(stay) - len(holes) :][::-1]
            table[:, taken + holes] = table[:, taken + last]
            left = taken + len(stay)
    dets[:left].copy_(torch.from_numpy(table[:5, :left].T.copy()))
    return torch.from_numpy(index[:left].astype(np.int64)).to(dets.device)


def _highest(scores: np.ndarray) -> int:
    """The index of the first highest score. NaN is lowest, unless it is the first score.

    The gaussian method produces NaN for boxes without an area.
    """
    best = int(scores.argmax())
    if np.isnan(scores[best]):
        return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))
    return best

"""Rotated boxes ``(x, y, w, h, angle)``: ``box_iou_rotated`` and ``nms_rotated``.

The intersection area of two boxes is computed as an integral along the sides of one in the frame of
the other. It is continuous in the boxes, even if they are equal, touch or share a side, and needs
no tolerances. The compiled operators compute the convex hull of the intersections of sides in
float32 with absolute tolerances of 1e-6. They are wrong for boxes with sides of about 0.001 or
less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .overlaps import rounded
from .suppression import greedy

# Largest number of pairs that are processed at once, at about 1 kB each.
PAIRS = 1 << 15


def _shared_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection area of float64 boxes ``(..., 5)``, by Green's theorem.

    In the frame of ``boxes2``, which spans ``±a`` by ``±b``, the area is the sum over the sides of
    ``boxes1`` of the integral of ``clamp(y, -b, b)`` over x within ``±a``: trapezoids, with a
    correction for sides that cross ``±b``.
    """
    angle = boxes2[..., 4]
    dx, dy = (boxes1[..., :2] - boxes2[..., :2]).unbind(-1)
    x = dx * angle.cos() + dy * angle.sin()
    y = dy * angle.cos() - dx * angle.sin()
    turn = boxes1[..., 4] - angle
    w, h = (boxes1[..., 2:4].abs() / 2).unbind(-1)
    a, b = (boxes2[..., 2:4, None].abs() / 2).unbind(-2)  # (..., 1)
    along = x.new_tensor([-1, 1, 1, -1])  # of the corners in order around the box
    across = x.new_tensor([-1, -1, 1, 1])
    # Corners (..., 4), and the ends of the sides that start there.
    x = x[..., None] + along * (w * turn.cos())[..., None] - across * (h * turn.sin())[..., None]
    y = y[..., None] + along * (w * turn.sin())[..., None] + across * (h * turn.cos())[..., None]
    x_end, y_end = x.roll(-1, -1), y.roll(-1, -1)

    # The part of each side within ±a.
    x_from, x_to = x.clamp(-a, a), x_end.clamp(-a, a)
    run = x_end - x
    slope = (y_end - y) / torch.where(run == 0, 1, run)
    y_from, y_to = y + (x_from - x) * slope, y_end + (x_to - x_end) * slope

    low, high = torch.minimum(y_from, y_to), torch.maximum(y_from, y_to)
    rise = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
    over = (b - low).clamp(min=0) * (high - b).clamp(min=0) / rise
    under = (-b - low).clamp(min=0) * (high + b).clamp(min=0) / rise
    mean = (y_from.clamp(-b, b) + y_to.clamp(-b, b) + over - under) / 2
    return (mean * (x_to - x_from)).sum(-1).abs()


def _shares(boxes1: Tensor, boxes2: Tensor, foreground: bool = False) -> Tensor:
    """Intersection over union of boxes ``(..., 5)``, or over the area of ``boxes1``, in float64."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    area1, area2 = (b[..., 2] * b[..., 3] for b in (boxes1, boxes2))
    shared = _shared_area(boxes1, boxes2)
    shares = shared / (area1 if foreground else area1 + area2 - shared)
    return shares.masked_fill((area1 < 1e-14) | (area2 < 1e-14), 0)


@torch.no_grad()
def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Writes the overlap of each pair of rotated boxes to ``ious``.

    Args:
        boxes1: Boxes ``(M, 5)`` as ``(x, y, w, h, angle)``, the angle in radians, from x to y.
        boxes2: Boxes ``(N, 5)``.
        ious: Overwritten with the overlaps, ``(M * N,)``, or ``(M,)`` if ``aligned``.
        mode_flag: 0 for intersection over union, 1 for intersection over the area of ``boxes1``.
        aligned: Whether box i is only compared with box i of the other boxes.
    """
    write_shares(_shares, boxes1, boxes2, ious, mode_flag == 1, aligned)


def write_shares(
    shares: Callable[[Tensor, Tensor, bool], Tensor],
    boxes1: Tensor,
    boxes2: Tensor,
    ious: Tensor,
    foreground: bool,
    aligned: bool,
) -> None:
    """Writes the overlaps of pairs of boxes, some pairs at a time."""
    if not ious.numel():
        return
    rows = PAIRS if aligned else max(1, PAIRS // len(boxes2))
    ious = ious.view(len(boxes1), -1)
    for start in range(0, len(boxes1), rows):
        part = slice(start, start + rows)
        second = boxes2[part, None] if aligned else boxes2
        ious[part] = shares(boxes1[part, None], second, foreground).to(ious.dtype)


@torch.no_grad()
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Non-maximum suppression of rotated boxes.

    As in the compiled operators, labels are ignored: boxes suppress boxes of other labels.
    ``batched_nms`` moves the boxes of each label apart.

    Args:
        dets: Boxes ``(N, 5)``, or ``(N, 6)`` with labels in the last column.
        scores: Scores ``(N,)``.
        order: Order of descending scores; unused, since it is computed here.
        dets_sorted: The boxes in that order.
        labels: Unused.
        iou_threshold: Boxes are suppressed if their intersection over union is at least (on a CPU)
            or above (elsewhere) this threshold, as in the compiled operators.
        multi_label: Unused.

    Returns:
        Indices of the kept boxes in descending order of scores.
    """
    return suppress(box_iou_rotated, dets[:, :5], scores, iou_threshold)


def suppress(
    overlaps: Callable[..., None], boxes: Tensor, scores: Tensor, iou_threshold: float
) -> Tensor:
    """Non-maximum suppression with an operator that writes the overlaps of boxes."""
    if not len(boxes):
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    order = scores.contiguous().sort(0, descending=True)[1]
    boxes = boxes[order]
    threshold = rounded(iou_threshold)

    def suppresses(rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> np.ndarray:
        first, second = (boxes[torch.from_numpy(i).to(boxes.device)] for i in (rows, columns))
        shares = boxes.new_empty(len(rows) * len(columns))
        overlaps(first, second, shares, 0, False)
        hit = shares >= threshold if boxes.is_cpu else shares > threshold
        return hit.view(len(rows), len(columns)).cpu().numpy()

    kept = greedy(len(boxes), suppresses, 32 if boxes.is_cpu else 1024)
    return order[torch.from_numpy(kept).to(order.device)]

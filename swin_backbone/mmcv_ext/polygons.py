"""Quadrilaterals ``(x1, y1, ..., x4, y4)``: overlap, suppression, and a point-in-polygon test.

The compiled operators consider a corner inside of a quadrilateral if its projections on two sides
are within these sides, which is only right for rectangles. The functions here reproduce this error
for other quadrilaterals, because models were trained with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rotated import suppress, write_shares


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _inside(points: Tensor, corners: Tensor) -> Tensor:
    """Whether points ``(..., 4, 2)`` are inside, by the compiled operators' test."""
    origin = corners[..., :1, :]
    inside = torch.ones_like(points[..., 0], dtype=torch.bool)
    for side in (corners[..., 1:2, :] - origin, corners[..., 3:, :] - origin):
        along = ((points - origin) * side).sum(-1)
        inside &= (along >= 0) & (along <= (side * side).sum(-1))
    return inside


def _hull_area(points: Tensor, valid: Tensor) -> Tensor:
    """Area of the convex hull of valid points ``(..., K, 2)``, by gift wrapping."""
    lowest = points[..., 1].masked_fill(~valid, torch.inf).argmin(-1)[..., None, None]
    start = points.gather(-2, lowest.expand(*lowest.shape[:-1], 2))  # (..., 1, 2)
    start = torch.where(valid.any(-1)[..., None, None], start, 0)
    points = torch.where(valid[..., None], points - start, 0)
    size = points.abs().amax((-1, -2), keepdim=True)
    same = 1e-9 * size[..., 0]
    here = torch.zeros_like(start)
    ahead = torch.ones_like(start) * start.new_tensor([1, 0])
    area = torch.zeros_like(points[..., 0, 0])
    open_ = valid.sum(-1) > 2
    for _ in range(points.shape[-2]):
        steps = points - here
        turn = torch.atan2(_cross(ahead, steps), (ahead * steps).sum(-1))
        turn = torch.where(turn < -1e-9, turn + 2 * torch.pi, turn)
        turn = turn.masked_fill((steps.abs().amax(-1) <= same) | ~valid, torch.inf)
        best = turn.argmin(-1)[..., None, None].expand(*start.shape[:-2], 1, 2)
        ahead = steps.gather(-2, best)
        there = points.gather(-2, best)
        area += torch.where(open_, _cross(here, there)[..., 0], 0)
        open_ = open_ & (there.abs().amax((-1, -2)) > same[..., 0])  # until the hull is closed
        here = there
        if not open_.any():
            break
    return area / 2


def _shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Intersection area of quadrilaterals ``(..., 4, 2)``."""
    a, b = torch.broadcast_tensors(a, b)
    a_sides, b_sides = (q.roll(-1, -2) - q for q in (a, b))
    start, end = a[..., :, None, :], b[..., None, :, :]
    a_side, b_side = a_sides[..., :, None, :], b_sides[..., None, :, :]
    # Intersections of side i of one with side j of the other.
    divisor = _cross(b_side, a_side)
    parallel = divisor.abs() <= 1e-14
    divisor = torch.where(parallel, 1, divisor)
    t, u = (_cross(side, end - start) / divisor for side in (b_side, a_side))
    meet = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1) & ~parallel
    crossings = (start + t[..., None] * a_side).flatten(-3, -2)
    points = torch.cat([crossings, a, b], -2)
    valid = torch.cat([meet.flatten(-2), _inside(a, b), _inside(b, a)], -1)
    return _hull_area(points, valid)


def _shares(boxes1: Tensor, boxes2: Tensor, foreground: bool = False) -> Tensor:
    """Intersection over union of ``(..., 8)``, or over the area of ``boxes1``, in float64."""
    a, b = (boxes.double().unflatten(-1, (4, 2)) for boxes in (boxes1, boxes2))
    a, b = torch.broadcast_tensors(a, b)
    middle = torch.cat([a, b], -2).mean(-2, keepdim=True)
    a, b = a - middle, b - middle
    areas = []
    for quad in (a, b):
        first, second, third = (quad[..., i, :] - quad[..., 0, :] for i in (1, 2, 3))
        areas.append((_cross(first, second).abs() + _cross(second, third).abs()) / 2)
    shared = _shared_area(a, b)
    shares = shared / (areas[0] if foreground else areas[0] + areas[1] - shared)
    return shares.masked_fill((areas[0] < 1e-14) | (areas[1] < 1e-14), 0)


@torch.no_grad()
def box_iou_quadri(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Writes the overlap of each pair of quadrilaterals to ``ious``.

    Args:
        boxes1: Quadrilaterals ``(M, 8)``.
        boxes2: Quadrilaterals ``(N, 8)``.
        ious: Overwritten with the overlaps, ``(M * N,)``, or ``(M,)`` if ``aligned``.
        mode_flag: 0 for intersection over union, 1 for intersection over the area of ``boxes1``.
        aligned: Whether number i is only compared with number i of the others.
    """
    write_shares(_shares, boxes1, boxes2, ious, mode_flag == 1, aligned)


@torch.no_grad()
def nms_quadri(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Non-maximum suppression of quadrilaterals ``(N, 8)``; returns the indices of the kept ones.

    Arguments are those of ``nms_rotated``; labels are ignored here as well.
    """
    return suppress(box_iou_quadri, dets[:, :8], scores, iou_threshold)


@torch.no_grad()
def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Writes whether points are in quadrilaterals, 1 or 0.

    A point is inside if a ray to the right crosses an odd number of sides. As in the compiled
    operator, sides after one that contains the point are not counted.

    Args:
        points: Points ``(N, 2)``.
        polygons: Quadrilaterals ``(M, 8)``.
        output: Overwritten with 0 and 1, ``(N, M)``.
    """
    px, py = points.float()[:, None].unbind(-1)
    ends = polygons.float().view(-1, 4, 2)
    odd = torch.zeros(output.shape, dtype=torch.bool, device=points.device)
    counting = torch.ones_like(odd)
    for i in range(4):
        (sx, sy), (tx, ty) = ends[:, i].unbind(-1), ends[:, i - 1].unbind(-1)
        corner = ((sx == px) & (sy == py)) | ((tx == px) & (ty == py))
        spans = ((sy < py) & (ty >= py)) | ((sy >= py) & (ty < py))
        height = ty - sy
        x = sx + (py - sy) * (tx - sx) / torch.where(height == 0, 1, height)
        counting &= ~(corner | (spans & (x == px)))
        odd ^= counting & spans & (x > px)
    output.copy_(odd)

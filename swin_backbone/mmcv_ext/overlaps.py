"""Overlap of axis-aligned boxes: ``bbox_overlaps``, and overlaps for suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calling import wide


def rounded(value: float) -> float:
    """A number rounded to float32, like the arguments of the compiled operators."""
    return float(np.float32(value))


def _shares(boxes1: Tensor, boxes2: Tensor, offset: int, foreground: bool = False) -> Tensor:
    """Intersection over union of boxes ``(..., 4)``, or over the area of ``boxes1``."""
    corner = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    sides = (torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - corner + offset).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    area1, area2 = (
        (b[..., 2] - b[..., 0] + offset) * (b[..., 3] - b[..., 1] + offset)
        for b in (boxes1, boxes2)
    )
    return intersection / (area1 if foreground else area1 + area2 - intersection)


@torch.no_grad()
def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Writes the overlap of each pair of boxes to ``ious``.

    Args:
        bboxes1: Boxes ``(M, 4)`` as ``(x1, y1, x2, y2)``.
        bboxes2: Boxes ``(N, 4)``.
        ious: Overwritten with the overlaps, ``(M, N)``, or ``(M,)`` if ``aligned``.
        mode: 0 for intersection over union, 1 for intersection over the area of ``bboxes1``.
        aligned: Whether box i is only compared with box i of the other boxes.
        offset: Added to each width and height, 0 or 1.
    """
    first = wide(bboxes1).reshape(-1, 4)
    second = wide(bboxes2).reshape(-1, 4)
    ious.copy_(_shares(first if aligned else first[:, None], second, offset, mode == 1))


class Pairs:
    """Intersection over union of pairs of boxes out of ``(N, 4)``.

    On a CPU it is computed by NumPy in blocks that fit into the cache. torch would start its
    threads for many small steps, which is slow on a busy machine.
    """

    def __init__(self, boxes: Tensor, offset: int) -> None:
        self.boxes = boxes
        self.offset = offset
        self.block = 96 if boxes.is_cpu else 2048
        if boxes.is_cpu:
            columns: list[np.ndarray[Any, Any]] = list(boxes.t().contiguous().numpy())
            self.columns = columns
            x1, y1, x2, y2 = columns
            one = x1.dtype.type(offset)
            self.areas = (x2 - x1 + one) * (y2 - y1 + one)

    def __call__(self, rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]) -> np.ndarray:
        """The overlaps ``(len(rows), len(columns))`` of boxes by index."""
        if not self.boxes.is_cpu:
            first, second = (
                self.boxes[torch.from_numpy(index).to(self.boxes.device)]
                for index in (rows, columns)
            )
            return _shares(first[:, None], second, self.offset).cpu().numpy()
        x1, y1, x2, y2 = self.columns
        scratch = np.maximum(x1[rows, None], x1[columns])
        width = np.minimum(x2[rows, None], x2[columns])
        self._length(width, scratch)
        height = np.minimum(y2[rows, None], y2[columns])
        self._length(height, np.maximum(y1[rows, None], y1[columns], out=scratch))
        width *= height
        union = np.add(self.areas[rows, None], self.areas[columns], out=scratch)
        union -= width
        with np.errstate(divide='ignore', invalid='ignore'):  # boxes without an area
            width /= union
        return width

    def _length(self, end: np.ndarray, start: np.ndarray) -> None:
        """Replaces the ends of intervals by their lengths, in place."""
        end -= start
        if self.offset:
            end += end.dtype.type(self.offset)
        np.maximum(end, 0, out=end)

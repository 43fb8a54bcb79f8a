"""Predictions as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..predictor import Prediction


def answer(prediction: Prediction) -> dict[str, Any]:
    """A prediction for JSON, with only the keys that apply to the task.

    - ``boxes``: left, top, right, bottom of each box in pixels; best first
    - ``scores``: the score of each box, or of each class (classifiers)
    - ``labels``: the class of each box
    - ``masks``: for each box, ``left``, ``top``, ``width`` and ``height`` of a rectangle around its
      mask, and ``lengths`` of the alternating runs of 0 and 1, 0 first, in the rectangle's rows
    - ``segments``: ``labels`` and ``lengths`` of the runs in the image's rows
    """
    found: dict[str, Any] = {}
    if prediction.boxes is not None:
        found['boxes'] = _rounded(prediction.boxes, 2)
    if prediction.scores is not None:
        found['scores'] = _rounded(prediction.scores, 6)
    if prediction.labels is not None:
        found['labels'] = prediction.labels.tolist()
    if prediction.masks is not None:
        found['masks'] = [_mask(mask) for mask in prediction.masks]
    if prediction.segments is not None:
        labels, lengths = _runs(prediction.segments.ravel())
        found['segments'] = dict(labels=labels, lengths=lengths)
    return found


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.nan_to_num(values.astype(np.float64)).round(digits).tolist()


def _mask(mask: np.ndarray) -> dict[str, Any]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return dict(left=0, top=0, width=0, height=0, lengths=[])
    left, top = int(columns[0]), int(rows[0])
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    values, lengths = _runs(inside.ravel())
    lengths = [0, *lengths] if values[0] else lengths
    return dict(left=left, top=top, width=inside.shape[1], height=inside.shape[0], lengths=lengths)


def _runs(values: np.ndarray) -> tuple[list, list[int]]:
    """The values and lengths of runs of equal values."""
    starts = np.concatenate([[0], 1 + np.flatnonzero(values[1:] != values[:-1])])
    return values[starts].tolist(), np.diff(starts, append=len(values)).tolist()

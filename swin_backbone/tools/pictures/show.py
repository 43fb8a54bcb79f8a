"""All pictures of an image and a model, and the numbers in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ...errors import ArgumentError
from ..predictor import Prediction, Predictor
from . import cam as cams
from . import rollout as rollouts
from .attention import TokenAttention
from .drawing import TOP, draw_prediction
from .figures import (
    attend,
    check_point,
    draw_attention,
    draw_cam,
    draw_features,
    draw_rollout,
    feature_colours,
    grids,
)
from .observation import Observation, Place, observe, partners
from .subject import Subject, View

WHAT = ('prediction', 'features', 'attention', 'rollout', 'cam')
OF_POINTS = ('attention', 'rollout')
DOTS_PER_INCH = 120


@dataclass
class Pictures:
    """Pictures of an image and a model.

    Attributes:
        png: The PNG files, by what they show, one of :data:`WHAT`.
        facts: The numbers in them, for JSON.
        missing: Why each picture that is part of ``'all'`` is unavailable.
        view: How the image was prepared for the model.
        seen: The record of the backbone's run; None if no picture needs it.
        stage: The stage of the attention.
        blocks: The blocks of the attention.
        kept: The blocks whose inputs a report needs.
        point: The point of the image whose attention is drawn.
    """

    view: View
    png: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seen: Observation | None = None
    stage: int = 0
    blocks: tuple[int, ...] = ()
    kept: tuple[Place, ...] = ()
    point: tuple[float, float] = (0.0, 0.0)


def look(
    image: np.ndarray,
    subject: Subject,
    what: str = 'all',
    *,
    point: tuple[float, float] | None = None,
    stage: int | None = None,
    block: int | None = None,
    score: float = 0.5,
    cam: str | None = None,
    cam_method: str = 'grad-cam',
    everywhere: bool = False,
) -> Pictures:
    """Runs a model on an image and draws its prediction, features and attention.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject: The model.
        what: One of :data:`WHAT`, or ``'all'`` for all available ones but ``'cam'``.
        point: (x, y) in pixels of the image; by default, the center.
        stage: The stage of attention and rollout, by default the last but one that runs; and that
            of the class activation map, by default the last one that the heads use.
        block: A block of that stage, drawn with the other one of its pair; by default, the last.
        score: Boxes with at least this score are drawn.
        cam: Also draws the class activation map of this class or box, as named for
            :func:`.cam.explain`. With ``what='cam'``, the default is the best one.
        cam_method: As for :func:`.cam.explain`.
        everywhere: Whether to record the inputs of the last two blocks of all stages, for reports.

    Raises:
        ArgumentError: The picture is unavailable for this model, or there is no such point, stage
            or block.
    """
    reasons = _reasons(subject)
    asked = WHAT[:-1] if what == 'all' else (what,)
    for name in (what, 'cam' if cam is not None else what):
        if name in reasons:
            raise ArgumentError(f'there is no {name} to show: {reasons[name]}')
    missing = {name: reasons[name] for name in asked if name in reasons}
    if len(missing) == len(asked):
        raise ArgumentError(f'{subject.name}: there is nothing to show: {missing["prediction"]}')
    pictures = Pictures(subject.view(image), missing=missing)
    here = [name for name in WHAT if name in asked and name not in missing]
    found: list[TokenAttention] = []
    # Steps that may fail come before the drawing, which is slow.
    if {'features', *OF_POINTS} & {*here}:
        _run(pictures, subject, stage, block, everywhere, 'rollout' in here)
    if {*OF_POINTS} & {*here}:
        pictures.point = point or (image.shape[1] / 2, image.shape[0] / 2)
        check_point(pictures.view, pictures.point)
    if 'attention' in here:
        found = _attend(pictures, subject)
    if cam is not None or 'cam' in here:
        explained = cams.explain(image, subject, cam or '0', stage=stage, method=cam_method)
        _cam(pictures, image, subject, explained)
    if 'prediction' in here:
        _predict(pictures, image, subject, score)
    if 'features' in here:
        _features(pictures, image, subject)
    if 'attention' in here:
        _attention(pictures, image, subject, found)
    if 'rollout' in here:
        _rollout(pictures, image, subject)
    pictures.png = {name: pictures.png[name] for name in WHAT if name in pictures.png}
    return pictures


def _reasons(subject: Subject) -> dict[str, str]:
    """Why each picture is unavailable."""
    reasons: dict[str, str] = {}
    if subject.predictor is None:
        reasons |= dict.fromkeys(('prediction', 'cam'), subject.why_not)
    if subject.backbone is None:
        other = 'its backbone is none of this package'
        reasons |= dict.fromkeys(('features', 'attention', 'rollout', 'cam'), other)
    return reasons


def _predict(pictures: Pictures, image: np.ndarray, subject: Subject, score: float) -> None:
    predictor = subject.predictor
    assert predictor is not None
    found = predictor(image)
    drawn = draw_prediction(image, found, predictor.name, predictor.palette, score)
    pictures.png['prediction'] = png_of(drawn)
    pictures.facts['prediction'] = prediction_facts(found, predictor, score)


def prediction_facts(found: Prediction, predictor: Predictor, score: float) -> dict[str, Any]:
    """A prediction as numbers: boxes with at least the score, shares, or the best classes."""
    name = predictor.name
    if found.segments is not None:
        labels, counts = np.unique(found.segments, return_counts=True)
        shares = {
            name(int(i)): float(n / counts.sum()) for i, n in zip(labels, counts, strict=True)
        }
        return {'task': predictor.task, 'shares': shares}
    assert found.scores is not None
    if found.boxes is None:
        best = np.argsort(-found.scores, kind='stable')[:TOP]
        classes = [{'class': name(int(i)), 'score': float(found.scores[i])} for i in best]
        return {'task': predictor.task, 'classes': classes}
    assert found.labels is not None
    boxes = [
        {'class': name(int(label)), 'score': float(s), 'box': [float(side) for side in box]}
        for label, s, box in zip(found.labels, found.scores, found.boxes, strict=True)
        if s >= score
    ]
    return {'task': predictor.task, 'boxes': boxes}


def _run(
    pictures: Pictures,
    subject: Subject,
    stage: int | None,
    block: int | None,
    everywhere: bool,
    rollout: bool,
) -> None:
    backbone = subject.backbone
    assert backbone is not None
    last = max(backbone.out_indices)
    pictures.stage = max(last - 1, 0) if stage is None else stage
    pictures.blocks = tuple(partners(backbone, pictures.stage, block))
    places = {(pictures.stage, b) for b in pictures.blocks}
    if everywhere:
        rest = [i for i in range(last + 1) if i != pictures.stage]
        places |= {(i, b) for i in rest for b in partners(backbone, i)}
    pictures.kept = tuple(sorted(places))
    if rollout:
        places |= {*rollouts.places(backbone, pictures.stage, pictures.blocks[-1])}
    pictures.seen = observe(backbone, pictures.view.inputs, sorted(places))


def _features(pictures: Pictures, image: np.ndarray, subject: Subject) -> None:
    assert pictures.seen is not None
    maps = pictures.seen.maps
    colours = feature_colours(subject, pictures.view, maps)
    figure = draw_features(image, subject, pictures.view, maps, colours)
    pictures.png['features'] = png_of(figure)
    pictures.facts['features'] = [
        {
            'stage': stage,
            'channels': maps[stage].shape[1],
            'tokens': list(found.rgb.shape[:2]),
            'explained': found.explained,
        }
        for stage, found in colours.items()
    ]


def _attend(pictures: Pictures, subject: Subject) -> list[TokenAttention]:
    assert pictures.seen is not None
    stage, blocks, point = pictures.stage, pictures.blocks, pictures.point
    return attend(subject, pictures.view, pictures.seen, stage, blocks, point)


def _attention(
    pictures: Pictures, image: np.ndarray, subject: Subject, found: Sequence[TokenAttention]
) -> None:
    stage, blocks, point, view = pictures.stage, pictures.blocks, pictures.point, pictures.view
    figure = draw_attention(image, subject, view, stage, blocks, found, point)
    pictures.png['attention'] = png_of(figure)
    pictures.facts['attention'] = {
        'stage': stage,
        'point': list(point),
        'blocks': _block_facts(blocks, found),
    }


def _rollout(pictures: Pictures, image: np.ndarray, subject: Subject) -> None:
    backbone, seen, view = subject.backbone, pictures.seen, pictures.view
    assert backbone is not None and seen is not None
    place = pictures.stage, pictures.blocks[-1]
    grid, size = grids(subject, view)[pictures.stage], (view.inputs.shape[2], view.inputs.shape[3])
    hw = rollouts.grid_of(backbone, size, pictures.stage)
    query = grid.token(*pictures.point, hw)
    rows, columns = grid.shown()
    start = torch.zeros(2, *hw, dtype=torch.float64)
    start[0, query[0], query[1]] = 1
    start[1, :rows, :columns] = 1
    start /= start.sum((1, 2), keepdim=True)
    found = rollouts.rollout(backbone, seen.tokens, size, *place, start)
    pictures.seen = seen.of(pictures.kept)
    figure = draw_rollout(image, subject, view, place, query, found, pictures.point)
    pictures.png['rollout'] = png_of(figure)
    pictures.facts['rollout'] = {
        **dict(zip(('stage', 'block'), place, strict=True)),
        'point': list(pictures.point),
        'token': list(query),
        'grid': list(found[0].shares.shape),
        'most': float(found[0].shares.max()),
        'on_padding': found[0].padded,
        'all_on_padding': found[1].padded,
    }


def _cam(pictures: Pictures, image: np.ndarray, subject: Subject, found: cams.Cam) -> None:
    pictures.png['cam'] = png_of(draw_cam(image, subject, pictures.view, found))
    hottest = np.unravel_index(int(found.heat.argmax()), found.heat.shape)
    facts = {
        'class': found.target.name,
        found.target.measure: found.target.score,
        'method': found.method,
        'stage': found.stage,
        'grid': list(found.heat.shape),
        'hottest': [int(place) for place in hottest] if found.heat.any() else None,
    }
    if found.target.box is not None:
        facts['box'] = list(found.target.box)
    pictures.facts['cam'] = facts


def _block_facts(blocks: Sequence[int], found: Sequence[TokenAttention]) -> list[dict[str, Any]]:
    return [
        {
            'block': block,
            'window': one.size,
            'shift': one.shift,
            'heads': len(one.weights),
            'token': list(one.query),
            'grid': list(one.grid),
            'most': float(one.mean.max()),
            'on_padding': one.padded,
        }
        for block, one in zip(blocks, found, strict=True)
    ]


def png_of(picture: Figure | Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, 'png', optimize=True)
    else:
        picture.savefig(buffer, format='png', dpi=DOTS_PER_INCH)
    return buffer.getvalue()

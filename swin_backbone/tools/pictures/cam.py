"""Grad-CAM: which parts of a feature map support a class or a box, through the model's heads.

Source: Selvaraju et al., Grad-CAM (arXiv:1610.02391), equations 1 and 2.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError
from ...patches import scores_keep_gradients
from ..predictor import Predictor
from .subject import Subject

# This module's own method, and the classes of the package grad-cam for the others.
METHODS = {
    'grad-cam': '',
    'grad-cam++': 'GradCAMPlusPlus',
    'hirescam': 'HiResCAM',
    'layer-cam': 'LayerCAM',
    'xgrad-cam': 'XGradCAM',
}


@dataclass(frozen=True)
class Target:
    """The explained class or box.

    Attributes:
        name: The class.
        measure: The meaning of ``score``: the class's ``'probability'`` (classifiers), the box's
            ``'score'`` (detectors), or the class's ``'share'`` of the pixels (segmentors).
        score: From 0 to 1.
        box: (left, top, right, bottom) in pixels of the image for detectors; else None.
    """

    name: str
    measure: str
    score: float
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Cam:
    """A class activation map.

    Attributes:
        heat: How much each token of the stage's map supports the target: float32 (H, W), at least
            0, of arbitrary scale.
        target: The explained class or box.
        stage: The stage of the backbone.
        method: One of :data:`METHODS`.
    """

    heat: np.ndarray
    target: Target
    stage: int
    method: str


def explain(
    image: np.ndarray,
    subject: Subject,
    target: str = '0',
    *,
    stage: int | None = None,
    method: str = 'grad-cam',
) -> Cam:
    """The class activation map of a class or a box.

    The differentiated score is the class's logit for classifiers; the mean of the class's logits
    over the pixels where it is predicted, or over all pixels if there are none, for segmentors; and
    the box's score for detectors.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject: A whole model with this package's backbone.
        target: The name of a class; for detectors, the best box of that class. Or a rank, where 0
            is the best: of classes by score (classifiers) or number of pixels (segmentors), or of
            boxes by score (detectors).
        stage: The stage of the map; None for the last one that the heads use.
        method: One of :data:`METHODS`; all but the first need the package grad-cam.

    Raises:
        ArgumentError: There is no such class, box, stage or method, the model has no heads, or its
            score is not differentiable with respect to the map.
    """
    if subject.predictor is None or subject.backbone is None:
        raise ArgumentError(f'{subject.name}: there are no heads whose score could be explained')
    if method not in METHODS:
        raise ArgumentError(f'method={method!r} must be one of {", ".join(METHODS)}')
    of_package = _of_package(METHODS[method]) if METHODS[method] else None
    heads = Heads(subject.predictor, image, target, _checked(subject, stage))
    with torch.enable_grad():
        try:
            gradient = _gradient(heads)
            if of_package is not None:
                heat = _by_grad_cam(heads, of_package)
            else:
                heat = grad_cam(heads.feature.detach(), gradient).float().cpu().numpy()
        except NotImplementedError as error:  # an operator without a backward pass
            raise ArgumentError(f'the heads of {subject.name} have no gradient: {error}') from error
    assert heads.target is not None
    return Cam(heat, heads.target, heads.stage, method)


class Heads(nn.Module):
    """The part of a model after a feature map: maps the feature map to the score.

    The backbone itself runs once, without gradients.

    Args:
        predictor: The model.
        image: uint8 (H, W, 3), RGB.
        wanted: The target, as for :func:`explain`.
        stage: The stage of the map.

    Attributes:
        feature: The map (1, C, h, w), which requires a gradient.
        tap: An identity that the map passes through first, as a target layer for hooks.
        target: The class or box of the last score.
    """

    def __init__(self, predictor: Predictor, image: np.ndarray, wanted: str, stage: int) -> None:
        super().__init__()
        self.model, self.tap = predictor.model, nn.Identity()
        self.stage, self.wanted, self.predictor = stage, wanted, predictor
        self.inputs, self.samples = predictor.prepare(image)
        self.index = sorted(self.model.backbone.out_indices).index(stage)
        with torch.no_grad():
            self.maps = self.model.backbone(self.inputs)
        self.feature = self.maps[self.index].detach().requires_grad_()
        self.target: Target | None = None

    def forward(self, feature: Tensor) -> Tensor:
        """Maps a feature map (1, C, h, w) to the score, (1,)."""
        maps = list(self.maps)
        maps[self.index] = self.tap(feature)
        score_of = _SCORES[self.predictor.task]
        with _giving(self.model.backbone, type(self.maps)(maps)):
            score, self.target = score_of(self.predictor, self.inputs, self.samples, self.wanted)
        return score.reshape(1)


def grad_cam(feature: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM, (H, W), of a map (1, C, H, W) and the score's gradient with respect to it."""
    weights = gradient.mean((2, 3), keepdim=True)  # equation 1
    return (weights * feature).sum(1)[0].relu()  # equation 2


def _gradient(heads: Heads) -> Tensor:
    """The gradient of the score with respect to the map."""
    score = heads(heads.feature)
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, heads.feature, allow_unused=True)
    if gradient is None:
        assert heads.target is not None
        raise ArgumentError(
            f'the score of {heads.target.name!r} does not follow from the map of stage '
            f'{heads.stage} by steps that can be differentiated'
        )
    return gradient


def _of_package(method: str) -> Any:
    """A class of the package grad-cam."""
    try:
        return getattr(importlib.import_module('pytorch_grad_cam'), method)
    except ImportError as error:
        raise ArgumentError(
            f"{method} is the package grad-cam's ({error}): pip install 'swin_backbone[cam]'"
        ) from error


def _by_grad_cam(heads: Heads, kind: Any) -> np.ndarray:
    """The map of a class of the package grad-cam, whose input image is the feature map."""
    try:
        cam = kind(model=heads, target_layers=[heads.tap])
        heat = cam(input_tensor=heads.feature, targets=[lambda score: score])[0]
    finally:
        heads.zero_grad()
    return np.asarray(heat, np.float32)


def _checked(subject: Subject, stage: int | None) -> int:
    assert subject.backbone is not None
    stages = sorted(subject.backbone.out_indices)
    if stage is not None and stage not in stages:
        raise ArgumentError(
            f'stage={stage} must be one of those whose maps the heads take: '
            f'{", ".join(map(str, stages))}'
        )
    return stages[-1] if stage is None else stage


@contextlib.contextmanager
def _giving(backbone: nn.Module, maps: Any) -> Iterator[None]:
    """Within the context, the backbone returns these maps for any image."""
    before = backbone.__dict__.get('forward')
    backbone.forward = lambda *_, **__: maps
    try:
        yield
    finally:
        del backbone.forward
        if before is not None:
            backbone.forward = before


def _class_score(
    predictor: Predictor, inputs: Tensor, samples: list, wanted: str
) -> tuple[Tensor, Target]:
    with torch.no_grad():
        scores = predictor.model(inputs, samples, mode='predict')[0].pred_score
    ranked = scores.argsort(descending=True, stable=True).tolist()
    label = ranked[_chosen(wanted, ranked, predictor)]
    logits = predictor.model(inputs, samples, mode='tensor')
    if not isinstance(logits, Tensor):
        raise ArgumentError(f'{type(predictor.model.head).__name__} has no score of each class')
    return logits[0, label], Target(predictor.name(label), 'probability', float(scores[label]))


def _segment_score(
    predictor: Predictor, inputs: Tensor, samples: list, wanted: str
) -> tuple[Tensor, Target]:
    metas = [sample.metainfo for sample in samples]
    logits = predictor.model.encode_decode(inputs, metas)[0]
    height, width = metas[0]['img_shape'][:2]
    logits = logits[:, :height, :width]  # without the image's padding
    if len(logits) == 1:  # foreground against background
        threshold = predictor.model.decode_head.threshold
        segments = (logits[0].sigmoid() > threshold).long()
        logits = torch.cat([-logits, logits])
    else:
        segments = logits.argmax(0)
    counts = segments.flatten().bincount(minlength=len(logits))
    ranked = counts.argsort(descending=True, stable=True).tolist()
    label = ranked[_chosen(wanted, ranked, predictor, int(counts.count_nonzero()))]
    where = segments == label if counts[label] else torch.ones_like(segments, dtype=torch.bool)
    share = float(counts[label] / segments.numel())
    return logits[label][where].mean(), Target(predictor.name(label), 'share', share)


def _box_score(
    predictor: Predictor, inputs: Tensor, samples: list, wanted: str
) -> tuple[Tensor, Target]:
    head = getattr(predictor.model, 'bbox_head', None)
    with scores_keep_gradients(type(head).__mro__):
        found = predictor.model(inputs, samples, mode='predict')[0].pred_instances
    order = found.scores.argsort(descending=True, stable=True)
    if not len(order):
        raise ArgumentError('the detector finds nothing in this image, so there is no box')
    i = order[_chosen(wanted, found.labels[order].tolist(), predictor)]
    box = tuple(found.bboxes[i].detach().float().tolist())
    score = found.scores[i]
    name = predictor.name(int(found.labels[i]))
    return score, Target(name, 'score', float(score.detach()), box)


_SCORES = {
    'classification': _class_score,
    'segmentation': _segment_score,
    'detection': _box_score,
}


def _chosen(
    wanted: str, ranked: Sequence[int], predictor: Predictor, numbers: int | None = None
) -> int:
    """The index in ``ranked``, labels from the best, of the class or rank that ``wanted`` names.

    Ranks are below ``numbers``, by default the number of labels.
    """
    numbers = len(ranked) if numbers is None else numbers
    names = [predictor.name(label) for label in ranked]
    for same in (str, str.casefold):
        matching = [i for i, name in enumerate(names) if same(name) == same(wanted)]
        if matching:
            return matching[0]
    if wanted.isdecimal() and int(wanted) < numbers:
        return int(wanted)
    what = 'boxes' if predictor.task == 'detection' else 'classes'
    if wanted.casefold() in map(str.casefold, predictor.classes):
        raise ArgumentError(f'there are no {what} of {wanted!r} in this image')
    near = difflib.get_close_matches(wanted, [*dict.fromkeys(names), *predictor.classes], 3)
    hint = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
    raise ArgumentError(
        f'cam={wanted!r} must be the name of a class, or the number of one of the {numbers} '
        f'{what}, from 0, the best{hint}'
    )

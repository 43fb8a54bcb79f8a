"""The parts of a config's model that can be exported: the backbone, or all that is dense."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule, revert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ArgumentError
from ...registration import NAMES
from ...weights import load_pretrained
from ..configs import read
from ..predictor import build, classes_of, load_weights
from .pooling import any_size_pooling

PARTS = ('backbone', 'model')


class Part(nn.Module):
    """A model or a part of it: maps a normalised image (B, C, H, W) to a tuple of tensors.

    Attributes:
        outputs: The names of the tensors.
        metadata: Metadata for the file.
        in_channels: The number of channels of the image.
        least: The smallest (height, width) in pixels that it accepts.
    """

    model: BaseModule

    def __init__(self, model: BaseModule, backbone: BaseModule) -> None:
        super().__init__()
        self.model = model
        self.outputs: tuple[str, ...] = ()
        self.metadata: dict[str, str] = {}
        self.in_channels = backbone.patch_embed.in_channels
        self.least = _least(backbone)


class Backbone(Part):
    """Feature maps ``stage{i}`` for each of ``out_indices``: (B, C, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(self, backbone: BaseModule) -> None:
        super().__init__(backbone, backbone)
        self.outputs = tuple(f'stage{i}' for i in sorted(backbone.out_indices))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(image))


class Segmentor(Part):
    """A segmentor's ``logits`` at the image's size, (B, classes, H, W).

    With ``class_map``, the output is ``classes``, the class of each pixel, int64 (B, H, W).
    """

    def __init__(self, model: BaseModel, class_map: bool) -> None:
        super().__init__(model, model.backbone)
        self.class_map = class_map
        self.outputs = ('classes',) if class_map else ('logits',)
        self.align_corners = model.align_corners

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.model.decode_head(self.model.extract_feat(image))
        size = image.shape[2:]
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=self.align_corners)
        return (logits.argmax(1) if self.class_map else logits,)


class Detector(Part):
    """A two-stage detector up to the RPN's outputs, before sorting and NMS.

    For each level i of the neck: ``feature{i}`` (B, C, h, w); ``score{i}`` (B, anchors, h, w), the
    RPN's objectness before the sigmoid; and ``delta{i}`` (B, 4 * anchors, h, w), its box deltas.
    """

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model, model.backbone)
        levels = range(model.neck.num_outs)
        self.outputs = tuple(f'{n}{i}' for n in ('feature', 'score', 'delta') for i in levels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.model.extract_feat(image)
        scores, deltas = self.model.rpn_head(features)
        return (*features, *scores, *deltas)


def load_part(
    config: str | Path, checkpoint: str | Path, part: str = 'backbone', class_map: bool = False
) -> Part:
    """Builds a config's model, loads a checkpoint, and selects the part to export.

    Args:
        config: A config whose model has this package's backbone.
        checkpoint: A path, a name in the catalog or a URL. For the backbone, in any layout that
            its ``init_cfg`` accepts, alone or within a whole model; for a model, that model's own.
        part: ``'backbone'``, or ``'model'``: see :class:`Segmentor` and :class:`Detector`.
        class_map: Whether a segmentor outputs classes instead of logits.

    Raises:
        ArgumentError: The config has another backbone, its framework is not installed, or its
            model is of a kind whose heads are not exported.
        CheckpointError: The checkpoint cannot be read, or does not fit.
    """
    if part not in PARTS:
        raise ArgumentError(f'part={part!r} must be one of {", ".join(PARTS)}')
    content = read(config)
    model = build(content, config)
    model = revert_sync_batchnorm(model)
    model.eval()  # not chained: mmdet's backbones return None
    backbone = _backbone(model, config)
    if part == 'backbone':
        load_pretrained(backbone, dict(checkpoint=str(checkpoint)))
        cut: Part = Backbone(backbone)
    else:
        cut = _dense(model, class_map, config)
        load_weights(model, checkpoint)
    any_size_pooling(cut)
    cut.metadata = _metadata(content, checkpoint, part)
    cut.eval()
    return cut.requires_grad_(False)


def _backbone(model: BaseModule, config: str | Path) -> nn.Module:
    backbone = getattr(model, 'backbone', model)
    found = type(backbone)
    if not issubclass(found, tuple(NAMES)):
        raise ArgumentError(
            f'{config} has no backbone of this package, but {found.__module__}.{found.__name__}; '
            "type='SwinBackbone' in the config is unmistakably ours"
        )
    return backbone


def _dense(model: nn.Module, class_map: bool, config: str | Path) -> Part:
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.Module) and _takes_features_alone(head):
        return Segmentor(model, class_map)
    if class_map and head is None:
        raise ArgumentError('class_map is for segmentors')
    if getattr(model, 'neck', None) is not None and hasattr(model, 'rpn_head'):
        return Detector(model)
    raise ArgumentError(
        f'{config}: {_heads(model)} not exported: --part model is for segmentors whose one '
        'decode_head takes feature maps alone, and for detectors with a neck and an rpn_head; '
        '--part backbone is for all'
    )


def _takes_features_alone(head: nn.Module) -> bool:
    """Whether feature maps are a head's only input; Mask2Former's head needs more."""
    if isinstance(head, nn.ModuleList):
        return False
    parameters = inspect.signature(head.forward).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters) == 1


def _heads(model: nn.Module) -> str:
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList):
        return f'its decode_head, a {type(head).__name__}, is'
    return f'the heads of {type(model).__name__} are'


def _least(backbone: BaseModule) -> tuple[int, int]:
    """The size of a patch; or, if windows shrink on small maps, the smallest size without that."""
    height, width = backbone.patch_embed.patch_size
    tokens = 1
    last = max(backbone.out_indices)
    for stage, (pixels, _) in zip(backbone.stages[: last + 1], backbone.token_sides, strict=False):
        attention = stage.blocks[0].attn
        if not getattr(attention, 'pad_small_map', True):
            tokens = max(tokens, attention.window_size * (pixels // height) + 1)
    return tokens * height, tokens * width


def _metadata(content: Config, checkpoint: str | Path, part: str) -> dict[str, str]:
    """What the file's user needs to know: the preparation of images, and the classes."""
    known = {'part': part, 'checkpoint': Path(checkpoint).name}
    before = content.model.get('data_preprocessor') or content.get('data_preprocessor') or {}
    for name in ('mean', 'std', 'bgr_to_rgb'):
        if before.get(name) is not None:
            known[name] = str(before[name])
    if before.get('bgr_to_rgb') is not None:
        known['channels'] = 'RGB' if before['bgr_to_rgb'] else 'BGR'
    if classes := classes_of(content).get('classes'):
        known['classes'] = ','.join(classes)
    return known


def example(part: Part, batch: int, size: tuple[int, int]) -> Tensor:
    """A random batch, the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, part.in_channels, *size, generator=generator)


def run(part: Part, image: Tensor) -> list[Any]:
    """The part's outputs, without gradients."""
    with torch.no_grad():
        return list(part(image))

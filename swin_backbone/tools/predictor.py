"""Builds a config's model, loads its weights, and predicts on images."""

from __future__ import annotations

import colorsys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseTTAModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor, nn

from ..errors import ArgumentError, CheckpointError
from ..weights import read_checkpoint
from ..weights.state_dicts import whole_model
from .configs import quietly, read
from .faults import why_not_built, written_for_former

_GOLDEN = 0.618033988749895  # golden ratio: its multiples, modulo 1, are evenly spread hues


@quietly()
def build(content: Config, name: str | Path) -> nn.Module:
    """Builds a config's model, with randomly initialised weights.

    Args:
        content: The config, its bases merged.
        name: What errors call it.

    Raises:
        ArgumentError: The config has no model, it cannot be built, or it is one of test-time
            augmentation.
    """
    if not isinstance(content.get('model'), Mapping):
        raise ArgumentError(f'{name} has no model')
    scope = content.get('default_scope', 'mmengine')
    enter_scope(scope)
    try:
        model = MODELS.build(content.model)
    except Exception as error:  # a model's constructor may raise anything
        raise ArgumentError(why_not_built(content, name, error)) from error
    if isinstance(model, BaseTTAModel):
        raise ArgumentError(
            f'the model of {name} is a {type(model).__name__}, test-time augmentation around '
            'model.module, which is for tests alone: give the config of the model itself, on which '
            'this one is based'
        )
    return model


def enter_scope(scope: str) -> None:
    """Like mmengine's ``init_default_scope``, without a warning if there was another scope."""
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != scope:
        # The newest instance is the current one; only a new name creates one.
        DefaultScope.get_instance(f'{scope}-{time.time_ns()}', scope_name=scope)


def build_on_meta(content: Config, name: str | Path) -> nn.Module:
    """Like :func:`build`, on the meta device: tensors have only shapes."""
    with torch.device('meta'):
        model = build(content, name)
    return model.to('meta')  # torch.Tensor(…), as in mmdet's DINO, ignores torch.device


def usable_device(device: str | torch.device, name: str | None = None) -> torch.device:
    """A device, after trying to compute on it.

    Args:
        device: What a user asked for.
        name: What the error calls it.

    Raises:
        ArgumentError: It is not a device, this machine has none, or it holds no numbers (meta).
    """
    try:
        found = torch.device(device)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of a driver that is too old: the error says so
            torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depends on the device
        said = str(error).partition('\n')[0]
        raise ArgumentError(
            f'{name or f"device={str(device)!r}"} cannot be used: {said}'
        ) from error
    return found


def load_weights(model: nn.Module, checkpoint: str | Path) -> dict[str, Any]:
    """Loads the weights of a whole model.

    Args:
        model: The model.
        checkpoint: A path, a name in the catalog or a URL.

    Returns:
        The checkpoint's ``meta``; empty if it has none.

    Raises:
        CheckpointError: The file cannot be read, or its keys or shapes do not match the model.
    """
    content = read_checkpoint(checkpoint)
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{checkpoint} holds a {type(content).__name__}, no state dict')
    meta = content.get('meta')
    weights = whole_model(content)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, AttributeError) as error:  # CheckpointError is a RuntimeError, too
        raise CheckpointError(f'{checkpoint} does not fit the model: {error}') from error
    unexpected = [key for key in unexpected if not key.startswith('data_preprocessor.')]
    if missing or unexpected:
        raise CheckpointError(
            f'{checkpoint} does not fit the model: {len(missing)} weights are missing in the file'
            f'{_some(missing)} and {len(unexpected)} are not in the model{_some(unexpected)}'
        )
    return dict(meta) if isinstance(meta, Mapping) else {}


@quietly()
def classes_of(content: Config) -> dict[str, list]:
    """``classes``, names, and ``palette``, RGB from 0 to 255, of a config's test dataset.

    They are from the dataset's ``metainfo`` or its class; empty if neither has them.
    """
    settings = _test_data(content)
    known = dict(settings.get('metainfo') or {})
    if 'classes' not in known and isinstance(settings.get('type'), str):
        with DATASETS.switch_scope_and_registry(content.get('default_scope')) as registry:
            kind = registry.get(settings['type'])
        known = {**(getattr(kind, 'METAINFO', None) or {}), **known}
    return _named(known)


@dataclass(frozen=True)
class Prediction:
    """A prediction for an image of H × W pixels; fields that do not apply to the task are None.

    Attributes:
        boxes: float32 (N, 4): left, top, right, bottom in pixels; best first (detectors).
        scores: Scores from 0 to 1 of the boxes, float32 (N,), or of the classes, (classes,)
            (classifiers).
        labels: The class of each box, int64 (N,).
        masks: The mask of each box, bool (N, H, W); None for detectors without masks.
        segments: The class of each pixel, int64 (H, W) (segmentors).
    """

    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    masks: np.ndarray | None = None
    segments: np.ndarray | None = None


class Predictor:
    """A config's detector, segmentor or classifier, with weights; maps an image to a prediction.

    Args:
        config: A path or the name of a shipped config.
        checkpoint: The whole model's checkpoint: a path, a name in the catalog or a URL.
        device: The device of the model.

    Attributes:
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``.
        model: The model, in evaluation mode.
        classes: The names of the classes, from the checkpoint or else the config.
        palette: A colour for each class, RGB from 0 to 255, uint8 (classes, 3).

    Raises:
        ArgumentError: The model cannot be built or has an unknown task, there is no test pipeline,
            or the pipeline loads other channels than the backbone expects.
        CheckpointError: The checkpoint cannot be read, or does not match the model.
    """

    def __init__(
        self, config: str | Path, checkpoint: str | Path, device: str | torch.device = 'cpu'
    ) -> None:
        content = read(config)
        model = revert_sync_batchnorm(build(content, config))
        self.task = _task(model, config)
        self._loader, self._transforms = _pipeline(content, config)
        _check_channels(model, self._loader, config)
        meta = load_weights(model, checkpoint).get('dataset_meta')
        known = _named(
            {str(k).lower(): v for k, v in meta.items()} if isinstance(meta, Mapping) else {}
        )
        known = known if known.get('classes') else classes_of(content)
        self.model = model.to(device)
        self.model.eval()  # not chained: mmdet's backbones return None
        self.classes: list[str] = list(known.get('classes', ()))
        self.palette = _palette(known.get('palette', ()), len(self.classes))

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Prediction:
        """Predicts on an image.

        Args:
            image: uint8 (H, W, 3), RGB; converted to grey if the test pipeline loads grey images.

        Raises:
            ArgumentError: The array has another dtype or shape.
        """
        inputs, samples = self.prepare(image)
        sample = self.model(inputs, samples, mode='predict')[0]
        return getattr(self, f'_{self.task}')(sample)

    @torch.no_grad()
    def features(self, image: np.ndarray) -> list[Tensor]:
        """The backbone's feature maps, (1, C, h, w) for each of ``out_indices``."""
        inputs, _ = self.prepare(image)
        return list(self.model.backbone(inputs))

    def prepare(self, image: np.ndarray) -> tuple[Tensor, list]:
        """The model's input, float32 (1, C, h, w), resized and normalised, and its data sample."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ArgumentError(
                f'image must be RGB, uint8 of shape (H, W, 3), not {image.dtype} {image.shape}'
            )
        size = image.shape[:2]
        pixels = self._loader.loaded(image)
        known = dict(img_shape=size, ori_shape=size, img_id=0, img_path='', img=pixels)
        packed = self._transforms(known)
        batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        prepared = self.model.data_preprocessor(batch, training=False)
        return prepared['inputs'], prepared['data_samples']

    def name(self, label: int) -> str:
        """The name of a class; ``'class 3'`` if it has none."""
        return self.classes[label] if label < len(self.classes) else f'class {label}'

    def _detection(self, sample: Any) -> Prediction:
        found = sample.pred_instances.cpu()
        order = found.scores.argsort(descending=True, stable=True)
        masks = found.get('masks')
        return Prediction(
            boxes=found.bboxes[order].float().numpy(),
            scores=found.scores[order].float().numpy(),
            labels=found.labels[order].numpy(),
            masks=None if masks is None else torch.as_tensor(masks)[order].bool().numpy(),
        )

    def _segmentation(self, sample: Any) -> Prediction:
        return Prediction(segments=sample.pred_sem_seg.data[0].long().cpu().numpy())

    def _classification(self, sample: Any) -> Prediction:
        return Prediction(scores=sample.pred_score.float().cpu().numpy())


def _task(model: nn.Module, config: str | Path) -> str:
    if hasattr(model, 'decode_head'):
        return 'segmentation'
    if any(hasattr(model, head) for head in ('roi_head', 'bbox_head', 'rpn_head', 'panoptic_head')):
        return 'detection'
    if hasattr(model, 'head'):
        return 'classification'
    raise ArgumentError(
        f'{config}: {type(model).__name__} is no detector, segmentor or classifier that is known'
    )


@dataclass(frozen=True)
class _Loader:
    """How a test pipeline loads images: the dtype and channels of its ``LoadImageFromFile``."""

    pixels: str
    grey: bool

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def loaded(self, image: np.ndarray) -> np.ndarray:
        """An RGB image as BGR (H, W, 3), or grey (H, W)."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        return (mmcv.bgr2gray(bgr) if self.grey else bgr).astype(self.pixels)


@quietly()
def _pipeline(content: Config, config: str | Path) -> tuple[_Loader, Compose]:
    """How the test pipeline loads images, and its other steps."""
    steps = _test_data(content).get('pipeline') or content.get('test_pipeline')
    if not steps:
        former = written_for_former(content)
        raise ArgumentError(
            f'{config} has no test pipeline: test_dataloader.dataset.pipeline'
            f'{f"; {former}" if former else ""}'
        )
    loaders = [step for step in steps if _kind(step).startswith('LoadImage')]
    left = [step for step in steps if not _kind(step).startswith('Load')]
    pixels = 'float32' if any(step.get('to_float32') for step in loaders) else 'uint8'
    grey = any(str(step.get('color_type')).startswith('grayscale') for step in loaders)
    return _Loader(pixels, grey), Compose(left)


def _check_channels(model: nn.Module, loader: _Loader, config: str | Path) -> None:
    """Raises if the backbone expects other channels than the test pipeline loads."""
    embedding = getattr(getattr(model, 'backbone', None), 'patch_embed', None)
    wanted = getattr(embedding, 'in_channels', loader.channels)
    if wanted == loader.channels:
        return
    how = "images of more channels than RGB are for the framework's own inferencer"
    if wanted in (1, 3):
        how = f'set color_type={"grayscale" if wanted == 1 else "color"!r} in its LoadImageFromFile'
    raise ArgumentError(
        f'{config}: model.backbone.in_channels={wanted}, but the test pipeline loads '
        f'{loader.channels}: {how}'
    )


def _kind(step: Mapping) -> str:
    kind = step['type']
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _test_data(content: Config) -> Mapping:
    """The settings of the test dataset, without wrappers."""
    loader = content.get('test_dataloader') or content.get('val_dataloader') or {}
    settings = loader.get('dataset') or {}
    while isinstance(settings.get('dataset'), Mapping):
        settings = settings['dataset']
    return settings


def _named(known: Mapping[str, Any]) -> dict[str, list]:
    classes, palette = known.get('classes'), known.get('palette')
    named: dict[str, list] = {}
    if isinstance(classes, Sequence):
        named['classes'] = [classes] if isinstance(classes, str) else [str(c) for c in classes]
    if isinstance(palette, Sequence) and not isinstance(palette, str):
        named['palette'] = [tuple(colour) for colour in palette]
    return named


def palette_of(metainfo: Mapping[str, Any], count: int) -> np.ndarray:
    """Colours for a dataset's classes, RGB from 0 to 255, uint8 (at least ``count``, 3)."""
    return _palette(_named(metainfo).get('palette', ()), count)


def _palette(colours: Sequence, count: int) -> np.ndarray:
    """The given colours, followed by distinct hues for the remaining classes."""
    rest = [colorsys.hsv_to_rgb(i * _GOLDEN % 1, 0.7, 0.95) for i in range(len(colours), count)]
    given = np.array(colours, dtype=np.float64).reshape(-1, 3)
    return np.concatenate([given, 255 * np.array(rest).reshape(-1, 3)]).round().astype(np.uint8)


def _some(keys: Sequence[str]) -> str:
    return f' ({", ".join(keys[:3])}{", …" if len(keys) > 3 else ""})' if keys else ''

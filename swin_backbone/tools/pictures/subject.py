"""The model to draw, whole or only a backbone, and the preparation of images for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from ...errors import ArgumentError, CheckpointError
from ...swin import SwinTransformer
from ...swin_v2 import SwinTransformerV2
from ...weights import describe, load_pretrained
from ...weights.download import target
from ..configs import read
from ..predictor import Predictor, build, usable_device

DEFAULT = 'swin_tiny_in1k'
RANDOM = 'random weights, untrained'
# ImageNet's, for RGB from 0 to 255; almost all Swin backbones are trained with them.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Longer side in pixels of the input of a backbone without a test pipeline.
LONGER_SIDE = 640


@dataclass(frozen=True)
class View:
    """An image, prepared for a model.

    Attributes:
        inputs: The normalised image, float32 (1, 3, h, w), padded at the bottom and right.
        size: (height, width) in pixels of ``inputs`` without padding.
        scale: The scale (x, y) from the image to ``inputs``.
        offset: The pixels of ``inputs`` that were cropped at the left and the top.
    """

    inputs: Tensor
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[int, int] = (0, 0)

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Maps a point of the image to ``inputs``."""
        return x * self.scale[0] - self.offset[0], y * self.scale[1] - self.offset[1]

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Maps a point of ``inputs`` to the image."""
        return (x + self.offset[0]) / self.scale[0], (y + self.offset[1]) / self.scale[1]


@dataclass(frozen=True)
class Subject:
    """A model to draw.

    Attributes:
        name: Its name, for titles.
        weights: The source of its weights, or :data:`RANDOM`.
        backbone: This package's backbone, in evaluation mode; None if the model has another one.
        predictor: The whole model; None if there is only a backbone.
        why_not: Why there is no predictor; ``''`` if there is one.
    """

    name: str
    weights: str
    backbone: SwinTransformer | None
    predictor: Predictor | None = None
    why_not: str = ''

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.weights == RANDOM

    def view(self, image: np.ndarray) -> View:
        """Prepares an image, uint8 (H, W, 3), RGB.

        A whole model uses its test pipeline. For a backbone alone, the longer side is reduced to
        :data:`LONGER_SIDE`, and the image is normalised by ImageNet's mean and deviation, in grey
        if the backbone has one input channel.

        Raises:
            ArgumentError: The backbone has neither 3 input channels nor 1.
        """
        if self.predictor is not None:
            inputs, samples = self.predictor.prepare(image)
            return view_of(inputs, samples[0].metainfo)
        assert self.backbone is not None
        device = next(self.backbone.parameters()).device
        return _normalised(image, self.backbone.patch_embed.in_channels, device)


def view_of(inputs: Tensor, known: Mapping[str, Any]) -> View:
    """A view, derived from the ``metainfo`` of a test pipeline.

    Pipelines resize the image, crop its center, if anything, and pad it at the bottom and right.
    """
    before, after = known['ori_shape'][:2], known['img_shape'][:2]
    across, down = known.get('scale_factor') or (after[1] / before[1], after[0] / before[0])
    resized = round(before[0] * down), round(before[1] * across)
    top, left = (max(round((r - a) / 2), 0) for r, a in zip(resized, after, strict=True))
    size = min(after[0], resized[0]), min(after[1], resized[1])
    return View(inputs, size, (float(across), float(down)), (left, top))


def _normalised(image: np.ndarray, channels: int, device: torch.device) -> View:
    if channels not in (1, 3):
        raise ArgumentError(
            f'the backbone takes in_channels={channels}, and pictures are read as RGB: only '
            'backbones of 3 channels, or of 1 for grey, can be shown'
        )
    height, width = image.shape[:2]
    factor = min(LONGER_SIDE / max(height, width), 1)
    # Thin images do not become thinner than the stride of the last stage.
    height_now, width_now = (max(round(s * factor), min(s, 32)) for s in (height, width))
    size = height_now, width_now
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.tensor(np.asarray(resized), dtype=torch.float32, device=device)
    mean, std = pixels.new_tensor(MEAN), pixels.new_tensor(STD)
    if channels == 1:
        grey = np.asarray(resized.convert('L'))[..., None]
        pixels, mean, std = pixels.new_tensor(grey), mean.mean(), std.mean()
    pixels = (pixels - mean) / std
    inputs = pixels.permute(2, 0, 1)[None].contiguous()
    return View(inputs, size, (size[1] / width, size[0] / height))


def load_subject(
    config: str | Path | None = None,
    weights: str | Path | None = None,
    device: str | torch.device = 'cpu',
) -> Subject:
    """Loads a model, given its config, its weights, both or neither.

    Args:
        config: A path or the name of a shipped config. Without it, the model is the backbone that
            the weights belong to.
        weights: A path, a name in the catalog or a URL, for the whole model or its backbone.
            Without them, the weights are random. Without both, the model is a Swin-T with the
            weights :data:`DEFAULT`, if they are downloaded, or else with random weights.
        device: The device of the model.

    Raises:
        ArgumentError: The config has no model that can be built, or the device is unavailable.
        CheckpointError: The weights cannot be read, or fit neither the model nor its backbone.
    """
    device = usable_device(device)
    if config is None:
        return _backbone_of(weights, device)
    content = read(config)
    name = Path(str(config)).stem
    if weights is None:
        return _untrained(name, lambda: build(content, config), device)
    if not _is_backbone(content):
        return _whole(name, config, weights, device)
    backbone = build(content, config)
    return _bare(name, backbone, weights, 'the model is a backbone by itself', device)


def _whole(name: str, config: str | Path, weights: str | Path, device: torch.device) -> Subject:
    """The whole model, or its backbone if the weights are only those of the backbone."""
    try:
        predictor = Predictor(config, weights, device)
    except (ArgumentError, CheckpointError) as error:
        model = build(read(config), config)
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, SwinTransformer):
            raise
        try:
            return _bare(name, backbone, weights, str(error), device)
        except CheckpointError:
            raise error from None
    backbone = getattr(predictor.model, 'backbone', None)
    backbone = backbone if isinstance(backbone, SwinTransformer) else None
    return Subject(name, str(weights), backbone, predictor)


def _untrained(name: str, make: Callable[[], nn.Module], device: torch.device) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same picture every time
        backbone = _drawn(name, make())
    backbone.eval().to(device)
    return Subject(name, RANDOM, backbone, None, 'no weights were given')


def _drawn(name: str, model: nn.Module) -> SwinTransformer:
    """A model's backbone, with random weights."""
    backbone = model if isinstance(model, SwinTransformer) else getattr(model, 'backbone', None)
    if not isinstance(backbone, SwinTransformer):
        raise ArgumentError(
            f'{name} without weights: its backbone is {type(backbone).__name__}, none of this '
            'package, so there is nothing to show; give the weights of the whole model'
        )
    backbone.init_cfg = None  # a pretrained file would be downloaded
    backbone.init_weights()
    return backbone


def _bare(
    name: str, backbone: nn.Module, weights: str | Path, why_not: str, device: torch.device
) -> Subject:
    if not isinstance(backbone, SwinTransformer):
        raise ArgumentError(f'{name}: {type(backbone).__name__} is no backbone of this package')
    load_pretrained(backbone, dict(checkpoint=str(weights)))
    backbone.eval().to(device)
    return Subject(name, str(weights), backbone, None, why_not)


def _backbone_of(weights: str | Path | None, device: torch.device) -> Subject:
    if weights is None:
        if not target(DEFAULT).path.is_file():
            return _untrained('Swin-T', lambda: SwinTransformer(arch='tiny'), device)
        weights = DEFAULT
    found = describe(str(weights))
    window = found.window_size or next(iter(found.pretrained_window_sizes), None)
    grid = found.pretrain_grid
    if not (found.embed_dims and found.num_heads and window) or (found.positions and not grid):
        raise CheckpointError(
            f'{weights} does not say all of its architecture ({found}): give its config, too'
        )
    patch = (found.patch_size or (4, 4))[0]
    arguments: dict[str, Any] = dict(
        embed_dims=found.embed_dims,
        depths=found.depths,
        num_heads=found.num_heads,
        window_size=window,
        in_channels=found.in_channels,
        out_indices=tuple(range(len(found.depths))),
        strides=(patch, *[2] * (len(found.depths) - 1)),
        patch_size=patch,
        use_abs_pos_embed=found.positions > 0,
    )
    if grid:
        arguments['pretrain_img_size'] = tuple(side * patch for side in grid)
    if found.version == 2:
        arguments['extra_norm_every_n_blocks'] = found.extra_norm_every_n_blocks
        if found.pretrained_window_sizes:
            arguments['pretrained_window_sizes'] = found.pretrained_window_sizes
        backbone: SwinTransformer = SwinTransformerV2(**arguments)
    else:
        backbone = SwinTransformer(**arguments)
    known = f'Swin-{found.architecture[0].upper()}' if found.architecture else 'Swin'
    name = known + (' V2' if found.version == 2 else '')
    return _bare(name, backbone, weights, 'there is a backbone alone', device)


def _is_backbone(content: Config) -> bool:
    """Whether a config's model is only a backbone; it is not built for that."""
    model = content.get('model')
    return isinstance(model, Mapping) and 'backbone' not in model

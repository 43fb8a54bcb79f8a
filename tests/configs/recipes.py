"""What the tests of the configs share: the configs, and the official recipes as a table."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from swin_backbone import configs_dir

# Those for mmpretrain are in mmpretrain_checks.py.
CONFIGS = sorted(
    path.stem
    for path in configs_dir().glob('*.py')
    if path.stem != '__init__' and not path.stem.endswith('_imagenet')
)


class Recipe(NamedTuple):
    """An official recipe; for Swin-L, which has none, what is published (docs/configs.md)."""

    arch: str
    drop_path_rate: float
    weights: str  # of the official release, between 'swin_' and '.pth'
    size: int  # the shorter side of test images, and the side of a segmentor's training crops
    parameters: int  # in millions, as published


TINY, SMALL, BASE = (f'{arch}_patch4_window7_224' for arch in ('tiny', 'small', 'base'))
LARGE = 'large_patch4_window7_224_22k'
RECIPES = {
    'mask_rcnn_swin_t_1x_coco': Recipe('tiny', 0.1, TINY, 800, 48),
    'mask_rcnn_swin_t_coco': Recipe('tiny', 0.2, TINY, 800, 48),
    'mask_rcnn_swin_s_coco': Recipe('small', 0.2, SMALL, 800, 69),
    'cascade_swin_t_1x_coco': Recipe('tiny', 0.0, TINY, 800, 86),
    'cascade_swin_t_coco': Recipe('tiny', 0.2, TINY, 800, 86),
    'cascade_swin_s_coco': Recipe('small', 0.2, SMALL, 800, 107),
    'cascade_swin_b_coco': Recipe('base', 0.3, BASE, 800, 145),
    'cascade_swin_l_coco': Recipe('large', 0.3, LARGE, 800, 253),
    'htcpp_swin_b_coco': Recipe('base', 0.2, f'{BASE}_22k', 800, 160),
    'htcpp_swin_l_coco': Recipe('large', 0.2, LARGE, 800, 284),
    'htcpp_swin_l_3x_coco': Recipe('large', 0.2, LARGE, 800, 284),
    'upernet_swin_t_ade20k': Recipe('tiny', 0.3, TINY, 512, 60),
    'upernet_swin_s_ade20k': Recipe('small', 0.3, SMALL, 512, 81),
    'upernet_swin_b_ade20k': Recipe('base', 0.3, BASE, 512, 121),
    'upernet_swin_b_22k_ade20k': Recipe('base', 0.3, f'{BASE}_22k', 640, 121),
    'upernet_swin_l_ade20k': Recipe('large', 0.3, LARGE, 640, 234),
}
# Recipes of Swin V1 with V2's backbone: arch, window and the catalog's name of the weights.
V2_RECIPES = {
    'mask_rcnn_swinv2_t_coco': ('tiny', 8, 'swinv2_tiny_window8_in1k_256'),
    'cascade_swinv2_b_coco': ('base', 16, 'swinv2_base_window16_in1k_256'),
    'upernet_swinv2_b_ade20k': ('base', 16, 'swinv2_base_window16_in1k_256'),
}
DETECTORS = [name for name in RECIPES if name.endswith('coco')]
HTC = [name for name in DETECTORS if name.startswith('htcpp')]
SEGMENTORS = [name for name in RECIPES if name.endswith('ade20k')]


def path(name: str) -> Path:
    return configs_dir() / f'{name}.py'


def load(name: str | Path, **options) -> Config:
    """A config, with options as ``--cfg-options`` sets them (``__`` for the dots), in its scope."""
    config = Config.fromfile(name) if isinstance(name, Path) else deepcopy(_read(name))
    config.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    init_default_scope(config.default_scope)
    return config


@cache  # frameworks' bases are slow to find
def _read(name: str) -> Config:
    return Config.fromfile(path(name))


@cache
def model(name: str) -> nn.Module:
    """A config's model: shapes alone, no memory."""
    with torch.device('meta'):
        return MODELS.build(load(name).model)

"""Recipes shrunken to seconds of training on little images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from torch import nn

IMAGES = 4
SIDE = 96
WIDTHS = [16, 32, 64, 128]
LITTLE_SWIN = dict(arch=None, embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))


def picture(box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 40, dtype=np.uint8)
    return cv2.rectangle(image, box[:2], box[2:], (200, 180, 160), -1)


def shrink_detector(config: Config) -> None:
    """Little images, heads and samples; what is under test stays: types, optimizer, schedule."""
    model = config.model
    model.backbone.update(LITTLE_SWIN, init_cfg=None)
    model.neck.update(in_channels=WIDTHS, out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rcnn.score_thr = 0.0  # untrained as it is, it must find something
    if model.test_cfg.rcnn.nms.type == 'soft_nms':  # which is slow
        model.test_cfg.rpn.max_per_img = 2
    for extractor in ('bbox_roi_extractor', 'mask_roi_extractor'):
        model.roi_head[extractor].out_channels = 16
    for head in listed(model.roi_head.bbox_head):
        head.update(in_channels=16, fc_out_channels=32)
        if head.type == 'ConvFCBBoxHead':
            head.conv_out_channels = 16
    for head in listed(model.roi_head.mask_head):
        head.update(in_channels=16, conv_out_channels=16)
    if model.roi_head.get('semantic_head'):
        model.roi_head.semantic_roi_extractor.out_channels = 16
        model.roi_head.semantic_head.update(in_channels=16, conv_out_channels=16)
    for stage in listed(model.train_cfg.rcnn):
        stage.sampler.num = 16
    resize = dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True)
    steps = config.train_dataloader.dataset.pipeline
    scales = [step.type in ('RandomChoice', 'RandomResize') for step in steps]
    steps[scales.index(True)] = resize
    for phase in ('val', 'test'):
        config[f'{phase}_dataloader'].dataset.pipeline[1] = resize
    config.train_cfg.max_epochs = 1  # of two iterations, with two images each


def listed(settings) -> list:
    """Those of a cascade's stages, or of the only head."""
    return settings if isinstance(settings, list) else [settings]


def shrink_segmentor(config: Config) -> None:
    model = config.model
    model.data_preprocessor.size = (SIDE, SIDE)
    model.backbone.update(LITTLE_SWIN, init_cfg=None)
    model.decode_head.update(in_channels=WIDTHS, channels=16)
    model.auxiliary_head.update(in_channels=WIDTHS[2], channels=16)
    train, test = (config[f'{p}_dataloader'].dataset.pipeline for p in ('train', 'test'))
    train[2].scale, train[3].crop_size = (SIDE, SIDE), (SIDE, SIDE)
    test[1].scale = (SIDE, SIDE)
    config.train_cfg.update(max_iters=2, val_interval=2)


def run(config: Config, folder: Path):
    """Trains and tests in one process; returns the Runner, its log and the metrics."""
    config.work_dir = str(folder)
    config.visualizer.name = folder.name  # or it would log to an earlier run's folder
    config.default_hooks.logger.interval = 1
    for phase in ('train', 'val', 'test'):
        config[f'{phase}_dataloader'].update(num_workers=0, persistent_workers=False)
    runner = RUNNERS.build(config)
    stem = runner.model.backbone.patch_embed.projection.weight
    start = stem.detach().clone()
    runner.train()
    metrics = runner.test()
    assert not torch.equal(stem, start)
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())
    log = Path(runner.log_dir, 'vis_data/scalars.json').read_text().splitlines()
    losses = [line['loss'] for line in map(json.loads, log) if 'loss' in line]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in runner.model.modules())
    return runner, metrics

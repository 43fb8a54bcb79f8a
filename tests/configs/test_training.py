"""Recipes train and test for real, shrunken to seconds: on CPUs too, AMP and SyncBN or not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from recipes import load
from torch import nn

from swin_backbone import SwinTransformerV2

IMAGES = 4
SIDE = 96
WIDTHS = [16, 32, 64, 128]
LITTLE_SWIN = dict(arch=None, embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))


NEEDS_INSTABOOST = pytest.mark.skipif(
    find_spec('instaboostfast') is None, reason='InstaBoost is not installed'
)


@pytest.fixture(scope='module')
def coco(tmp_path_factory) -> Path:
    """Four images of a bright rectangle each, as COCO 2017 lies; the same to train and validate."""
    root = tmp_path_factory.mktemp('coco')
    (root / 'annotations').mkdir()
    corners = [(10 + 5 * i, 20, 60 + 5 * i, 80) for i in range(IMAGES)]
    annotations = [
        dict(
            id=i + 1,
            image_id=i,
            category_id=1,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
            iscrowd=0,
        )
        for i, (x1, y1, x2, y2) in enumerate(corners)
    ]
    images = [dict(id=i, file_name=f'{i}.jpg', height=SIDE, width=SIDE) for i in range(IMAGES)]
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        (root / 'stuffthingmaps' / split).mkdir(parents=True)
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
        for i, box in enumerate(corners):
            cv2.imwrite(str(root / split / f'{i}.jpg'), picture(box))
            stuff = np.where(picture(box)[..., 0] > 100, 0, 120).astype(np.uint8)
            cv2.imwrite(str(root / 'stuffthingmaps' / split / f'{i}.png'), stuff)
    return root


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory) -> Path:
    """The like as ADE20K lies: label 2 in the rectangle, 1 around it."""
    root = tmp_path_factory.mktemp('ade20k')
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(IMAGES):
            box = (10 + 5 * i, 20, 60 + 5 * i, 80)
            cv2.imwrite(str(root / f'images/{split}/{i}.jpg'), picture(box))
            labels = np.where(picture(box)[..., 0] > 100, 2, 1).astype(np.uint8)
            cv2.imwrite(str(root / f'annotations/{split}/{i}.png'), labels)
    return root


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


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_cascade_trains_and_tests_without_an_accelerator(coco, monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(coco))
    config = load(Path(load('cascade_swin_t_coco').filename))
    shrink_detector(config)
    runner, metrics = run(config, tmp_path)
    assert type(runner.optim_wrapper) is OptimWrapper
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    'name, instaboost',
    [
        ('htcpp_swin_b_coco', False),
        ('htcpp_swin_l_nosem_coco', False),
        pytest.param('htcpp_swin_l_coco', False, marks=pytest.mark.slow),
        pytest.param('htcpp_swin_l_3x_coco', False, marks=pytest.mark.slow),
        pytest.param('htcpp_swin_b_coco', True, marks=NEEDS_INSTABOOST),
    ],
)
def test_htc_trains_and_tests(name, instaboost, coco, monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(coco))
    monkeypatch.setenv('SWIN_INSTABOOST', 'on' if instaboost else 'off')
    config = load(Path(load(name).filename))
    assert instaboost == ('InstaBoost' in config.pretty_text)
    shrink_detector(config)
    runner, metrics = run(config, tmp_path)
    assert runner.model.backbone.global_attention.proj.weight.any()  # 0 at first
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)


def test_htc_tests_on_many_views(coco, monkeypatch, tmp_path):
    """As ``mim test`` does with the submission's config, and with ``--tta``."""
    monkeypatch.setenv('COCO_ROOT', str(coco))
    annotations = json.loads((coco / 'annotations/instances_val2017.json').read_text())
    del annotations['annotations']
    (coco / 'annotations/image_info_test-dev2017.json').write_text(json.dumps(annotations))
    (coco / 'test2017').symlink_to(coco / 'val2017')
    config = load(Path(load('htcpp_swin_l_mstest_coco').filename))
    config.model, whole = config.model.module, config.model
    shrink_detector(config)
    config.model = dict(whole, module=config.model)
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    small = [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (SIDE, 64)]
    config.test_dataloader.dataset.pipeline[1].transforms[0] = small
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_evaluator.outfile_prefix = str(tmp_path / 'submission')
    config.work_dir = str(tmp_path)
    RUNNERS.build(config).test()
    for kind in ('bbox', 'segm'):
        results = json.loads((tmp_path / f'submission.{kind}.json').read_text())
        assert {result['image_id'] for result in results} == set(range(IMAGES))
    assert all(result['segmentation']['size'] == [SIDE, SIDE] for result in results)

    config.test_dataloader.dataset.ann_file = 'annotations/instances_val2017.json'
    config.test_evaluator = config.val_evaluator
    metrics = RUNNERS.build(config).test()
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_upernet_trains_and_tests_without_an_accelerator(ade20k, monkeypatch, tmp_path):
    monkeypatch.setenv('ADE20K_ROOT', str(ade20k))
    config = load(Path(load('upernet_swin_t_ade20k').filename))
    shrink_segmentor(config)
    _, metrics = run(config, tmp_path)
    assert 0 <= metrics['mIoU'] <= 100
    assert (tmp_path / 'iter_2.pth').is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
@pytest.mark.parametrize(
    'name',
    [
        'cascade_swinv2_b_coco',
        pytest.param('mask_rcnn_swinv2_t_coco', marks=pytest.mark.slow),
        'upernet_swinv2_b_ade20k',
    ],
)
def test_v2_trains_and_tests(name, coco, ade20k, monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(coco))
    monkeypatch.setenv('ADE20K_ROOT', str(ade20k))
    config = load(Path(load(name).filename))
    shrink_segmentor(config) if name.endswith('ade20k') else shrink_detector(config)
    runner, metrics = run(config, tmp_path)
    assert type(runner.model.backbone) is SwinTransformerV2
    assert 'mIoU' in metrics or {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)

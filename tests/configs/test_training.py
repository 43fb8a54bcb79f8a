"""Recipes train and test for real, shrunken to seconds: on CPUs too, AMP and SyncBN or not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from little import IMAGES, SIDE, run, shrink_detector, shrink_segmentor
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from recipes import load

from swin_backbone import SwinTransformerV2

HAS_INSTABOOST = find_spec('instaboostfast') is not None
NEEDS_INSTABOOST = pytest.mark.skipif(not HAS_INSTABOOST, reason='InstaBoost is not installed')
# The quick tests train this recipe once, with InstaBoost where it can be had.
SLOW_WITH_INSTABOOST = [pytest.mark.slow] if HAS_INSTABOOST else []


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
        ('htcpp_swin_l_nosem_coco', False),
        pytest.param('htcpp_swin_b_coco', False, marks=SLOW_WITH_INSTABOOST),
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
        'mask_rcnn_swinv2_t_coco',
        pytest.param('cascade_swinv2_b_coco', marks=pytest.mark.slow),
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

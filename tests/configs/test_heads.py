"""Heads that the paper's own recipes do not have: the frameworks', inherited as they are.

Each has to be what it inherits but for the backbone and where weights and data are, to have the
published number of parameters, and to train and test for real, shrunken to seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from little import IMAGES, LITTLE_SWIN, SIDE, WIDTHS, run
from mmdet.datasets import CocoPanopticDataset
from mmengine.config import Config
from mmengine.registry import MODELS
from recipes import load, model, path
from stock import inherited

from swin_backbone import SwinTransformer
from swin_backbone.weights.catalog import find

# Configs and models are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('configs')


class Head(NamedTuple):
    """A config and what it has to be."""

    stock: str  # the framework's config whose head it has
    whole: bool  # whether the framework's data and schedule are inherited, too
    window_size: int
    drop_path_rate: float
    weights: str
    parameters: float  # in millions, to the digits published


IMAGENET = 'swin_tiny_patch4_window7_224.pth', 'swin_large_patch4_window12_384_22k.pth'
HEADS = {
    'faster_rcnn_swin_t_coco': Head(
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', False, 7, 0.2, IMAGENET[0], 45.15
    ),
    'retinanet_swin_t_coco': Head(
        'retinanet/retinanet_r50_fpn_1x_coco', False, 7, 0.2, IMAGENET[0], 38.5
    ),
    'atss_swin_t_coco': Head('atss/atss_r50_fpn_1x_coco', False, 7, 0.2, IMAGENET[0], 36),
    'reppoints_swin_t_coco': Head(
        'reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco', False, 7, 0.2, IMAGENET[0], 37.34
    ),
    'dino_swin_l_coco': Head(
        'dino/dino-5scale_swin-l_8xb2-36e_coco', True, 12, 0.2, IMAGENET[1], 218
    ),
    'mask2former_swin_l_coco_instance': Head(
        'mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco',
        *(True, 12, 0.3, IMAGENET[1], 216),
    ),
    'mask2former_swin_l_coco_panoptic': Head(
        'mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic',
        *(True, 12, 0.3, IMAGENET[1], 216),
    ),
    'mask2former_swin_l_ade20k': Head(
        'mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640',
        *(True, 12, 0.3, IMAGENET[1], 215),
    ),
}
WHOLE = [name for name, head in HEADS.items() if head.whole]
BOXES = [name for name, head in HEADS.items() if not head.whole]


@cache
def stock(name: str) -> Config:
    """The framework's config that one of ours is about."""
    framework = mmseg if name.endswith('ade20k') else mmdet
    folder = Path(framework.__file__).parent / '.mim/configs'
    return Config.fromfile(folder / f'{HEADS[name].stock}.py')


def without(part: dict, *keys: str) -> dict:
    return {key: value for key, value in part.items() if key not in keys}


def plain(part):
    """A part of a config without what inheriting from a framework adds: whose registries to use."""
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items() if key != '_scope_'}
    return [plain(value) for value in part] if isinstance(part, list | tuple) else part


@pytest.mark.parametrize('name', HEADS)
def test_backbone_is_as_the_recipe_says(name):
    head, backbone = HEADS[name], model(name).backbone
    assert backbone.window_size == head.window_size
    assert backbone.stages[-1].blocks[-1].ffn.dropout_layer.drop_prob == pytest.approx(
        head.drop_path_rate
    )
    weights = find(load(name).model.backbone.init_cfg.checkpoint)
    assert weights.url.endswith(f'/{head.weights}')


@pytest.mark.parametrize('name', HEADS)
def test_has_as_many_parameters_as_published(name):
    published = HEADS[name].parameters
    digits = len(str(published).partition('.')[2])
    count = sum(parameter.numel() for parameter in model(name).parameters())
    assert round(count / 1e6, digits) == published


@pytest.mark.parametrize('name', HEADS)
def test_head_is_the_frameworks(name):
    ours, theirs = plain(load(name).model), plain(stock(name).model)
    differ = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    if name == 'mask2former_swin_l_coco_instance':
        differ.remove('panoptic_head')
        own, their = (
            without(m['panoptic_head'], 'in_channels', 'num_queries') for m in (ours, theirs)
        )
        assert own == their and ours['panoptic_head']['num_queries'] == 200
    assert differ <= {'backbone', 'neck'}
    if 'neck' in differ:
        connection = ('in_channels', 'start_level')
        assert without(ours['neck'], *connection) == without(theirs['neck'], *connection)


@pytest.mark.parametrize('name', WHOLE)
def test_recipe_is_the_frameworks(name):
    ours, theirs = plain(load(name).to_dict()), plain(stock(name).to_dict())
    for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
        if name == 'mask2former_swin_l_coco_instance' and part in ('param_scheduler', 'train_cfg'):
            continue  # of twice the length; see below
        assert ours[part] == theirs[part], part
    for part in ('train_dataloader', 'test_dataloader'):
        differ = {'batch_size', 'num_workers', 'dataset'}
        assert without(ours[part], *differ) == without(theirs[part], *differ)
        own, their = (without(c[part]['dataset'], 'data_root') for c in (ours, theirs))
        if name == 'mask2former_swin_l_coco_instance':
            assert their['data_prefix'].pop('seg')  # which it does not read
        assert own == their


def test_instances_are_learnt_as_long_as_panoptic_segmentation():
    ours, panoptic = map(
        load, ('mask2former_swin_l_coco_instance', 'mask2former_swin_l_coco_panoptic')
    )
    for part in ('param_scheduler', 'train_cfg', 'auto_scale_lr', 'optim_wrapper'):
        assert ours[part] == panoptic[part]
    assert ours.train_dataloader.batch_size == panoptic.train_dataloader.batch_size == 1


@pytest.mark.parametrize('name', BOXES)
def test_boxes_are_learnt_as_mask_rcnns(name):
    ours, family = (plain(load(n).to_dict()) for n in (name, 'mask_rcnn_swin_t_coco'))
    for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr'):
        assert ours[part] == family[part]
    for loader in ('train_dataloader', 'test_dataloader'):
        own, masked = ours[loader]['dataset'], family[loader]['dataset']
        assert without(own, 'pipeline') == without(masked, 'pipeline')
        for step, other in zip(own['pipeline'], masked['pipeline'], strict=True):
            assert without(step, 'with_mask', 'backend_args') == without(
                other, 'with_mask', 'backend_args'
            )
            assert not step.get('with_mask')
    assert ours['test_evaluator']['metric'] == 'bbox'


@pytest.mark.parametrize('name', HEADS)
def test_environment_says_where_the_data_is(name, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/elsewhere')
    monkeypatch.setenv('ADE20K_ROOT', '/elsewhere')
    config = Config.fromfile(path(name))
    for phase in ('train', 'val', 'test'):
        assert config[f'{phase}_dataloader'].dataset.data_root == '/elsewhere'
    assert 'data/coco' not in config.pretty_text.replace("data_root='data/coco/'", '')


def shipped() -> Iterator:
    """The frameworks' own configs with Swin; of each kind the first is quick enough for all."""
    for framework in (mmdet, mmseg):
        configs = Path(framework.__file__).parent / '.mim/configs'
        for folder in ('swin', 'mask2former'):
            for i, file in enumerate(sorted((configs / folder).glob('*swin*.py'))):
                name = f'{folder}/{file.name}'
                slow = [pytest.mark.slow] if i else []
                yield pytest.param(framework.__name__, name, marks=slow)


@pytest.mark.parametrize(('framework', 'name'), shipped())
def test_shipped_configs_need_the_import_only(framework, name, tmp_path):
    file, base = tmp_path / 'user.py', inherited(framework, name)
    file.write_text(f"_base_ = {base!r}\ncustom_imports = dict(imports=['swin_backbone'])\n")
    with torch.device('meta'):
        assert type(MODELS.build(load(file).model).backbone) is SwinTransformer


@pytest.fixture(scope='module')
def panoptic(coco) -> Path:
    """COCO with panoptic annotations as well: the rectangle is a thing, around it is stuff."""
    meta = CocoPanopticDataset.METAINFO
    names = meta['classes']
    categories = [
        dict(id=i, name=name, isthing=int(name in meta['thing_classes']))
        for i, name in enumerate(names, start=1)
    ]
    for split in ('train2017', 'val2017'):
        folder = coco / f'annotations/panoptic_{split}'
        folder.mkdir()
        content = json.loads((coco / f'annotations/instances_{split}.json').read_text())
        annotations = []
        for thing in content['annotations']:
            x, y, width, height = thing['bbox']
            ids = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
            ids[..., 2] = 2  # red, in OpenCV's order: the lowest digits of an id
            ids[y : y + height, x : x + width, 2] = 1
            cv2.imwrite(str(folder / f'{thing["image_id"]}.png'), ids)
            stuff = dict(id=2, category_id=81, area=SIDE**2 - thing['area'], iscrowd=0)
            segments = [
                dict(id=1, category_id=1, area=thing['area'], iscrowd=0, bbox=thing['bbox']),
                dict(stuff, bbox=[0, 0, SIDE, SIDE]),
            ]
            annotations.append(
                dict(
                    image_id=thing['image_id'],
                    file_name=f'{thing["image_id"]}.png',
                    segments_info=segments,
                )
            )
        content.update(annotations=annotations, categories=categories)
        (coco / f'annotations/panoptic_{split}.json').write_text(json.dumps(content))
    assert len(annotations) == IMAGES
    return coco


def set_everywhere(node, **values) -> None:
    """Sets keys wherever they occur in a part of a config."""
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list | tuple):
            set_everywhere(child, **values)
    if isinstance(node, dict):
        node.update({key: value for key, value in values.items() if key in node})


def shrink(config: Config) -> None:
    """Little images, few queries and layers; types, optimizer, schedule and windows stay."""
    model = config.model
    width = 256 if model.type == 'DINO' else 64  # DINO's decoder has its width written into it
    set_everywhere(
        model,
        **dict(feat_channels=width, out_channels=width, point_feat_channels=width),
        **dict(embed_dims=width, num_feats=width // 2, feedforward_channels=32, num_layers=2),
        **dict(fc_out_channels=32),
        **dict(num_queries=20, num_dn_queries=4, nms_pre=50, max_per_img=10, score_thr=0.0),
        **dict(size=(SIDE, SIDE)),
    )
    masks = model.get('panoptic_head') or model.get('decode_head')
    if masks:
        (masks.get('train_cfg') or model.train_cfg).num_points = 200
    for head in (model.get('rpn_head'), model.get('bbox_head'), model.get('roi_head')):
        if head and model.type != 'DINO':
            head.get('bbox_head', head).in_channels = width
    outputs = model.backbone.get('out_indices', range(4))
    (masks or model.neck).in_channels = [WIDTHS[i] for i in outputs]
    model.backbone.update(LITTLE_SWIN, init_cfg=None)
    for phase in ('train', 'val', 'test'):
        dataset = config[f'{phase}_dataloader'].dataset
        dataset.pipeline = [smaller(step) for step in dataset.pipeline]
    if 'max_iters' in config.train_cfg:
        config.train_cfg.update(max_iters=2, val_interval=2, dynamic_intervals=None)
    else:
        config.train_cfg.max_epochs = 1  # of two iterations, with two images each


def smaller(step: dict) -> dict:
    """A step of a pipeline, for images of SIDE × SIDE."""
    if step['type'] == 'RandomChoice':
        return dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True)
    sizes = dict(scale=(SIDE, SIDE), crop_size=(SIDE, SIDE), scales=[SIDE])
    return step | {key: value for key, value in sizes.items() if key in step}


def trains_and_tests(name: str, folder: Path) -> dict:
    """Trains for two iterations and tests; returns the metrics."""
    config = load(path(name))
    shrink(config)
    config.visualizer.name = name  # mmengine keeps visualizers by name, with their folders
    return run(config, folder)[1]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in (*BOXES[1:], 'dino_swin_l_coco')]


@pytest.mark.parametrize('name', [BOXES[0], *SLOW])
def test_boxes_train_and_test(name, coco, monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(coco))
    assert 0 <= trains_and_tests(name, tmp_path)['coco/bbox_mAP'] <= 1


@pytest.mark.slow
def test_instances_train_and_test(coco, monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(coco))
    metrics = trains_and_tests('mask2former_swin_l_coco_instance', tmp_path)
    assert 0 <= metrics['coco/segm_mAP'] <= 1


@pytest.mark.slow
def test_panoptic_segmentation_trains_and_tests(panoptic, monkeypatch, tmp_path):
    pytest.importorskip('panopticapi', reason='mmdet needs panopticapi')
    monkeypatch.setenv('COCO_ROOT', str(panoptic))
    metrics = trains_and_tests('mask2former_swin_l_coco_panoptic', tmp_path)
    assert 0 <= metrics['coco_panoptic/PQ'] <= 100
    assert 0 <= metrics['coco/segm_mAP'] <= 1


@pytest.mark.slow
def test_semantic_segmentation_trains_and_tests(ade20k, monkeypatch, tmp_path):
    monkeypatch.setenv('ADE20K_ROOT', str(ade20k))
    assert 0 <= trains_and_tests('mask2former_swin_l_ade20k', tmp_path)['mIoU'] <= 100

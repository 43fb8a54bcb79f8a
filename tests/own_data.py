"""Data sets of a few drawn squares, as users' own lie, and runs on them that take a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import ConfigDict
from mmengine.registry import RUNNERS, init_default_scope

import swin_backbone  # noqa: F401

SIDE = 48
RUNNER = 'swin_backbone.engine.resume.ResumingRunner'
NAMES = ('lid', 'plate')
LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(SIDE, SIDE)),
]


def coco(
    folder: Path,
    names: Sequence[str] = NAMES,
    file: str = 'boxes.json',
    images: int = 4,
    masks: bool = True,
    first: int = 0,
) -> Path:
    """Squares in COCO's format, of each class in turn; returns the annotation file."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    listed, annotations = [], []
    for i in range(first, first + images):
        left = 4 + 3 * (i % 4)
        picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
        picture[left : left + 24, left : left + 24] = 200
        cv2.imwrite(str(folder / f'images/{i}.png'), picture)
        listed.append(dict(id=i, file_name=f'{i}.png', width=SIDE, height=SIDE))
        box = dict(id=i + 1, image_id=i, category_id=10 * (i % len(names)), area=576, iscrowd=0)
        box['bbox'] = [left, left, 24, 24]
        if masks:
            right = left + 24
            box['segmentation'] = [[left, left, right, left, right, right, left, right]]
        annotations.append(box)
    categories = [dict(id=10 * i, name=name) for i, name in enumerate(names)]
    content = dict(images=listed, annotations=annotations, categories=categories)
    (folder / file).write_text(json.dumps(content))
    return folder / file


def dataset(
    folder: Path, classes: object = NAMES, file: str = 'boxes.json', **settings: object
) -> dict:
    """Settings of a ``CocoDataset`` of it."""
    found = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file=file,
        data_prefix=dict(img='images/'),
        pipeline=[*LOAD, dict(type='PackDetInputs')],
    )
    if classes is not None:
        found['metainfo'] = dict(classes=classes)
    return found | settings


def run_config(
    work: Path, train: dict, val: dict | None = None, classes: int = 2, **settings: object
) -> ConfigDict:
    """A training of one iteration, and a validation if there are data for it."""
    content: dict = dict(
        default_scope='mmdet',
        runner_type=RUNNER,
        work_dir=str(work),
        experiment_name=f'{work.parent.name}_{work.name}',
        model=detector(classes),
        train_dataloader=loader(train),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        randomness=dict(seed=0),
        log_processor=dict(by_epoch=False),
        log_level='WARNING',
    )
    if val is not None:
        file = str(Path(val['data_root'], val['ann_file']))
        for phase, loop in (('val', 'ValLoop'), ('test', 'TestLoop')):
            content[f'{phase}_dataloader'] = loader(dict(val, test_mode=True))
            content[f'{phase}_cfg'] = dict(type=loop)
            content[f'{phase}_evaluator'] = dict(type='CocoMetric', ann_file=file)
    for key, value in settings.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return ConfigDict(content)


def detector(classes: int) -> dict:
    """The least RetinaNet."""
    backbone = dict(type='SwinTransformer', embed_dims=16, depths=(1, 1), num_heads=(1, 2))
    backbone |= dict(strides=(4, 2), out_indices=(1,), window_size=4)
    head = dict(
        type='RetinaHead',
        num_classes=classes,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[3], ratios=[1.0], strides=[8]),
    )
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=[32], out_channels=16, num_outs=1),
        bbox_head=head,
        train_cfg=dict(
            assigner=assigner,
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
        ),
    )


def loader(data: dict) -> dict:
    shuffled = not data.get('test_mode')
    return dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler' if shuffled else 'DefaultSampler', shuffle=shuffled),
        dataset=data,
    )


def runner(config: ConfigDict):
    init_default_scope(config.default_scope)
    return RUNNERS.build(config)


def label_maps(
    folder: Path, inside: int = 1, outside: int = 0, images: int = 3, **sizes: tuple[int, int]
) -> Path:
    """Pictures and maps of two labels, as mmseg's data lie; returns the folder."""
    height, width = sizes.get('size', (40, 60))
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(images):
        labels = np.full(sizes.get('map_size', (height, width)), outside, np.uint8)
        labels[5:20, 5 : 20 + i] = inside
        picture = np.full((height, width, 3), 90, np.uint8)
        cv2.imwrite(str(folder / f'labels/{i}.png'), labels)
        cv2.imwrite(str(folder / f'images/{i}.jpg'), picture)
    return folder


def segmented(folder: Path, classes: Sequence[str] = ('ground', 'crack'), **settings) -> dict:
    """Settings of a ``BaseSegDataset`` of them."""
    found = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=tuple(classes)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    return found | settings


def segmentation(train: dict, classes: int = 2, **head: object) -> ConfigDict:
    """The least of a config that trains a segmentor."""
    backbone = dict(type='SwinTransformer', embed_dims=16, depths=(1, 1), num_heads=(1, 2))
    backbone |= dict(strides=(4, 2), out_indices=(1,), window_size=4)
    decode = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=classes)
    model = dict(type='EncoderDecoder', backbone=backbone, decode_head=decode | head)
    model |= dict(train_cfg=dict(), test_cfg=dict(mode='whole'))
    preprocessor = dict(type='SegDataPreProcessor', size=(40, 60), pad_val=0, seg_pad_val=255)
    model['data_preprocessor'] = preprocessor
    return ConfigDict(
        default_scope='mmseg', model=model, train_dataloader=dict(dataset=train, batch_size=2)
    )

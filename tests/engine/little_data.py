"""Data sets of a few drawn squares, as users' own lie, and runs on them that take a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from long_run import SIDE, detector
from mmengine.config import ConfigDict
from mmengine.registry import RUNNERS, init_default_scope

import swin_backbone  # noqa: F401

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
    model = detector()
    model['bbox_head']['num_classes'] = classes
    model['test_cfg']['max_per_img'] = 10
    content: dict = dict(
        default_scope='mmdet',
        runner_type=RUNNER,
        work_dir=str(work),
        experiment_name=f'{work.parent.name}_{work.name}',
        model=model,
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

"""``mim train|test mmdet`` on real images: train, resume, test, two processes, stock weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import (
    CONFIGS,
    assert_same_detections,
    detections,
    logged,
    mim,
    read,
    succeeded,
)

pytestmark = pytest.mark.usefixtures('coco128')

CONFIG = CONFIGS / 'overfit_mask_rcnn_coco128.py'
SMALL_IMAGES = [
    f'{loader}_dataloader.dataset.pipeline.2.scale=(192,128)' for loader in ('train', 'val', 'test')
]
FAST = [
    *SMALL_IMAGES,
    'train_cfg.val_interval=100',
    # Hardly trained, the detector must be made to say something.
    'model.test_cfg.rcnn.score_thr=0.0',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=4',
]


@pytest.fixture(scope='module')
def folder(started, tmp_path_factory) -> Path:
    """Where a detector was trained for 4 iterations, resumed, and trained to the 12th."""
    folder = tmp_path_factory.mktemp('detection')
    succeeded(
        mim(
            'train',
            'mmdet',
            CONFIG,
            folder=folder,
            options=[*FAST, 'train_cfg.max_iters=4'],
            fresh=started,
        )
    )
    succeeded(
        mim(
            *('train', 'mmdet', CONFIG, '--resume'),
            folder=folder,
            options=[*FAST, 'train_cfg.max_iters=12', 'train_cfg.val_interval=12'],
            fresh=started,
        )
    )
    return folder


def test_training_resumes_where_it_stopped(folder):
    first, resumed = logged(folder, 'step', 'loss')
    assert [step for step, _ in first] == [1, 2, 3, 4]
    assert [step for step, _ in resumed] == list(range(5, 13))
    assert resumed[-1][1] < first[0][1]
    checkpoint = read(folder / 'work/iter_12.pth')
    assert checkpoint['meta']['iter'] == 12
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert steps == {12}


def test_two_processes_test_as_one(folder, started):
    words = [CONFIG, '--checkpoint', folder / 'work/iter_12.pth']
    alone = detections(folder, *words, options=FAST, fresh=started)
    assert len(alone) == 8
    assert_same_detections(
        alone, detections(folder, *words, options=FAST, processes=2, fresh=started)
    )


def test_two_processes_train(tmp_path):
    """By mim and its launcher."""
    options = [*FAST, 'train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    outcome = succeeded(
        mim('train', 'mmdet', CONFIG, folder=tmp_path, options=options, processes=2)
    )
    assert 0 <= outcome.value('coco/bbox_mAP') <= 1
    losses = [loss for (loss,) in logged(tmp_path, 'loss')[0]]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert 'Distributed training: True' in outcome.output

"""``mim train|test mmseg`` on real images: train, resume, test, with two processes as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import logged, mim, read, succeeded
from stock import inherited

BASES = ('models/upernet_swin.py', 'datasets/ade20k.py', 'default_runtime.py')
CONFIG = f'_base_ = {[inherited("mmseg", f"_base_/{name}") for name in BASES]}'
CONFIG += """
custom_imports = dict(imports=['swin_backbone', 'swin_backbone.engine.runner'])
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4)),
    decode_head=dict(in_channels=[24, 48, 96, 192], channels=32, num_classes=150),
    auxiliary_head=dict(in_channels=96, channels=32, num_classes=150),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4),
)
"""
DATA = [
    *(
        f'train_dataloader.dataset.pipeline.{option}'
        for option in ('2.scale=(256,96)', '3.crop_size=(96,96)')
    ),
    *(
        f'{loader}_dataloader.{option}'
        for loader in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ),
    *(f'{loader}_dataloader.dataset.pipeline.1.scale=(256,96)' for loader in ('val', 'test')),
]


@pytest.fixture(scope='module')
def options(ade20k) -> list[str]:
    roots = [
        f'{loader}_dataloader.dataset.data_root={ade20k}' for loader in ('train', 'val', 'test')
    ]
    return [*DATA, *roots]


@pytest.fixture(scope='module')
def config(ade20k, tmp_path_factory) -> Path:
    config = tmp_path_factory.mktemp('segmentation') / 'upernet.py'
    config.write_text(CONFIG)
    return config


@pytest.fixture(scope='module')
def folder(config, options, started) -> Path:
    """Where a segmentor was trained for 4 iterations, resumed, and trained to the 24th."""
    folder = config.parent
    succeeded(mim('train', 'mmseg', config, folder=folder, options=options, fresh=started))
    longer = [*options, 'train_cfg.max_iters=24', 'train_cfg.val_interval=24']
    outcome = mim(
        'train', 'mmseg', config, '--resume', folder=folder, options=longer, fresh=started
    )
    assert 0 <= succeeded(outcome).value('mIoU') <= 100
    return folder


def test_training_resumes_where_it_stopped(folder):
    first, resumed = logged(folder, 'step')
    assert first == [(1,), (2,), (3,), (4,)] and resumed == [(i,) for i in range(5, 25)]
    checkpoint = read(folder / 'work/iter_24.pth')
    assert checkpoint['meta']['iter'] == 24
    assert {int(state['step']) for state in checkpoint['optimizer']['state'].values()} == {24}


def test_two_processes_test_as_one(folder, config, options, started):
    words = ['test', 'mmseg', config, '--checkpoint', folder / 'work/iter_24.pth']
    alone = succeeded(mim(*words, folder=folder, options=options, fresh=started))
    both = succeeded(mim(*words, folder=folder, options=options, processes=2, fresh=started))
    for name in ('aAcc', 'mIoU', 'mAcc'):
        assert both.value(name) == alone.value(name)
    assert alone.value('aAcc') > 0


def test_two_processes_train_though_batch_norm_is_synchronised(config, options, tmp_path, started):
    outcome = mim(
        'train', 'mmseg', config, folder=tmp_path, options=options, processes=2, fresh=started
    )
    assert 'batch norm is not synchronised' in succeeded(outcome).output
    losses = [loss for (loss,) in logged(tmp_path, 'loss')[0]]
    assert len(losses) == 4 and losses[-1] < losses[0]

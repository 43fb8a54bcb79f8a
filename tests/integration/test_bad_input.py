"""What goes wrong ends a command with an exit code other than 0 and a message that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import CONFIGS, mim
from fresh import Fresh
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

pytestmark = pytest.mark.usefixtures('coco128')

CONFIG = CONFIGS / 'overfit_mask_rcnn_coco128.py'
SHORT = ['train_cfg.max_iters=1', 'train_dataloader.dataset.pipeline.2.scale=(96,64)']
OTHER = ['model.backbone.depths=[2,2,4,2]']


@pytest.fixture(scope='module')
def checkpoint(coco128, tmp_path_factory) -> Path:
    """Weights of the detector, as mmengine saves them."""
    init_default_scope('mmdet')
    file = tmp_path_factory.mktemp('checkpoint') / 'detector.pth'
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), file)
    return file


@pytest.fixture(scope='module')
def truncated(checkpoint) -> Path:
    file = checkpoint.with_name('truncated.pth')
    content = checkpoint.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


def assert_fails(folder: Path, options: list[str], *named: str, fresh: Fresh | None = None) -> None:
    options = [*SHORT, *options]
    outcome = mim('train', 'mmdet', CONFIG, folder=folder, options=options, fresh=fresh)
    assert outcome.returncode != 0, outcome.output[-4000:]
    last_error = outcome.output[outcome.output.rindex('Traceback') :]
    for name in named:
        assert str(name) in outcome.output[-6000:], outcome.output[-6000:]
    assert 'Training finished' not in last_error
    assert not list(folder.glob('work/*.pth'))


def test_missing_data(tmp_path):
    options = ['train_dataloader.dataset.data_root=nowhere/coco']
    assert_fails(tmp_path, options, 'nowhere/coco/annotations/instances.json')


@pytest.mark.parametrize('option', ['load_from', 'model.backbone.init_cfg.checkpoint'])
def test_truncated_checkpoint(tmp_path, truncated, option, fresh):
    options = [f'{option}={truncated}']
    if 'init_cfg' in option:
        options.append('model.backbone.init_cfg.type=Pretrained')
    assert_fails(tmp_path, options, 'truncated.pth', 'CheckpointError', fresh=fresh)


def test_absent_checkpoint(tmp_path, fresh):
    assert_fails(tmp_path, ['load_from=absent.pth'], 'absent.pth', fresh=fresh)


def test_pretrained_weights_of_another_depth(tmp_path, checkpoint, fresh):
    options = [
        *OTHER,
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={checkpoint}',
    ]
    assert_fails(
        tmp_path, options, 'detector.pth', 'CheckpointError', 'depths=(2, 2, 2, 2)', fresh=fresh
    )


def test_checkpoint_of_another_width(tmp_path, checkpoint, fresh):
    options = [
        'model.backbone.embed_dims=32',
        'model.neck.in_channels=[32,64,128,256]',
        f'load_from={checkpoint}',
    ]
    assert_fails(
        tmp_path, options, 'CheckpointError', 'embed_dims=48', 'embed_dims=32', fresh=fresh
    )

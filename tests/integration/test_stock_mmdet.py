"""A stock mmdet config with the one line added; checkpoints go between mmdet's class and ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import COCO128, assert_same_detections, detections, mim, read, succeeded
from mmdet.models.backbones.swin import SwinTransformer as TheirSwinTransformer
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from swin_backbone import SwinTransformer

pytestmark = pytest.mark.usefixtures('coco128')

CONFIG = """
_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['swin_backbone'])
randomness = dict(seed=0)
"""
# By its full name mmdet's own class stays within reach.
THEIRS = 'model.backbone.type=mmdet.models.backbones.swin.SwinTransformer'
FAST = [
    'model.backbone.init_cfg=None',
    'model.backbone.embed_dims=24',
    'model.backbone.depths=[2,2,2,2]',
    'model.backbone.num_heads=[1,2,3,4]',
    'model.neck.in_channels=[24,48,96,192]',
    'model.train_cfg.rcnn.sampler.num=32',
    # Hardly trained, the detector must be made to say something.
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rcnn.max_per_img=20',
    'train_dataloader.dataset.pipeline.2.scale=(160,128)',
    'test_dataloader.dataset.pipeline.1.scale=(160,128)',
    *(
        f'{loader}_dataloader.{option}'
        for loader in ('train', 'test')
        for option in (
            'num_workers=0',
            'persistent_workers=False',
            f'dataset.data_root={COCO128}',
            'dataset.ann_file=annotations/instances.json',
            'dataset.data_prefix.img=images/',
            'dataset.indices=4',
        )
    ),
    f'test_evaluator.ann_file={COCO128}/annotations/instances.json',
    *(f'val_{part}=None' for part in ('dataloader', 'evaluator', 'cfg')),
    'train_cfg.max_epochs=1',
    'default_hooks.checkpoint.save_optimizer=False',
]


@pytest.fixture(scope='module')
def config(coco128, tmp_path_factory) -> Path:
    config = tmp_path_factory.mktemp('stock') / 'stock.py'
    config.write_text(CONFIG)
    return config


@pytest.fixture(scope='module', params=['mmdet', 'ours'])
def checkpoint(request, config, started) -> Path:
    """A checkpoint that training wrote with mmdet's class, and one with ours."""
    folder = config.with_name(request.param)
    folder.mkdir()
    options = [*FAST, THEIRS] if request.param == 'mmdet' else FAST
    succeeded(mim('train', 'mmdet', config, folder=folder, options=options, fresh=started))
    return folder / 'work/epoch_1.pth'


def test_detects_the_same_with_either_class(config, checkpoint, tmp_path, started):
    words = [config, '--checkpoint', checkpoint]
    ours = detections(tmp_path, *words, options=FAST, fresh=started)
    theirs = detections(tmp_path, *words, options=[*FAST, THEIRS], fresh=started)
    assert_same_detections(ours, theirs)


def test_loads_strictly_into_either_class(config, checkpoint):
    register_all_modules()
    state_dict = read(checkpoint)['state_dict']
    cfg = Config.fromfile(config).model
    cfg.backbone.update(init_cfg=None, embed_dims=24, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4])
    cfg.neck.in_channels = [24, 48, 96, 192]
    for wanted, name in ((SwinTransformer, 'SwinTransformer'), (TheirSwinTransformer, THEIRS)):
        cfg.backbone.type = name.removeprefix('model.backbone.type=')
        model = MODELS.build(cfg)
        assert type(model.backbone) is wanted
        model.load_state_dict(state_dict, strict=True)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, state_dict[key], rtol=0, atol=0)

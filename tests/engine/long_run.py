"""A program of test_resume.py and the kill soak: trains a tiny detector on drawn rectangles.

Its last act is to save the weights, and the average of them, as ``final.pth``.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.registry import DATASETS, RUNNERS, init_default_scope
from mmengine.structures import InstanceData

import swin_backbone  # noqa: F401

RUNNER = 'swin_backbone.engine.resume.ResumingRunner'
SIDE = 48


@DATASETS.register_module()
class Rectangles(torch.utils.data.Dataset):
    """Grey pictures of one bright rectangle; noise and mirroring are drawn anew each time."""

    metainfo = dict(classes=('rectangle',))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict:
        left, top = 4 + index, 16 - index
        image = torch.full((3, SIDE, SIDE), 80.0)
        image[:, top : top + 20, left : left + 24] = 200
        image += torch.from_numpy(np.random.normal(0, 20, image.shape)).float()
        box = torch.tensor([[left, top, left + 24.0, top + 20.0]])
        if torch.rand(()) < 0.5:
            image = image.flip(2)
            box = torch.stack([SIDE - box[:, 2], box[:, 1], SIDE - box[:, 0], box[:, 3]], 1)
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=box, labels=torch.zeros(1, dtype=torch.long)),
            metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1, 1)),
        )
        return dict(inputs=image, data_samples=sample)


def detector(**backbone) -> dict:
    """RetinaNet with the least Swin."""
    small = dict(
        type='SwinTransformer',
        embed_dims=16,
        depths=(2, 2),
        num_heads=(1, 2),
        strides=(4, 2),
        out_indices=(1,),
        window_size=4,
        drop_path_rate=0.3,
        drop_rate=0.1,
    )
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[99.0] * 3, std=[50.0] * 3),
        backbone=dict(small, **backbone),
        neck=dict(type='FPN', in_channels=[32], out_channels=16, num_outs=1),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=1,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', scales=[3], ratios=[1.0], strides=[8]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss'),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5)),
    )


def config(folder: str, epochs: bool = False, workers: int = 0, iterations: int = 24) -> dict:
    """A run that saves every fifth iteration: in the middle of its epochs of six, too."""
    if epochs:
        loop = dict(by_epoch=True, max_epochs=iterations // 6)
        sampler = dict(type='DefaultSampler', shuffle=True)
    else:
        loop = dict(type='IterBasedTrainLoop', max_iters=iterations)
        sampler = dict(type='InfiniteSampler', shuffle=True)
    return dict(
        default_scope='mmdet',
        runner_type=RUNNER,
        work_dir=folder,
        resume=True,
        model=detector(),
        train_dataloader=dict(
            batch_size=2,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=sampler,
            dataset=dict(type='Rectangles'),
        ),
        train_cfg=loop,
        optim_wrapper=dict(
            type='swin_backbone.engine.amp.amp_where_possible',
            optimizer=dict(type='AdamW', lr=1e-3),
            clip_grad=dict(max_norm=5.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=10),
            dict(type='MultiStepLR', by_epoch=epochs, milestones=[2 if epochs else 12]),
        ],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5, max_keep_ckpts=2),
            logger=dict(type='LoggerHook', interval=5),
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        log_processor=dict(by_epoch=epochs),
        log_level='WARNING',
    )


def die_while_saving(save: int) -> None:
    """Makes the given one of this process's saves stop half-way, and the process with it."""
    put, count = LocalBackend.put, 0

    def half(self, content, path) -> None:
        nonlocal count
        count += 1
        if count == save:
            put(self, content[: len(content) // 2], path)
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, content, path)

    LocalBackend.put = half


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--epochs', action='store_true')
    parser.add_argument('--workers', type=int, default=0)
    parser.add_argument('--iterations', type=int, default=24)
    parser.add_argument('--stop-after', type=int, help='kill itself after so many iterations')
    parser.add_argument('--signal', default='SIGKILL')
    parser.add_argument('--die-in-save', type=int)
    parser.add_argument('--no-seed', action='store_true')
    given = parser.parse_args()
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    if given.die_in_save:
        die_while_saving(given.die_in_save)
    settings = config(str(given.folder), given.epochs, given.workers, given.iterations)
    if not given.no_seed:
        settings['randomness'] = dict(seed=7, deterministic=True)
    runner = RUNNERS.build(Config(settings))
    if given.stop_after:
        register_stop(runner, given.stop_after, getattr(signal, given.signal))
    runner.train()
    averages = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
    result = dict(weights=runner.model.state_dict(), averages=averages.state_dict())
    torch.save(result, given.folder / 'final.pth')


def register_stop(runner, iterations: int, number: int) -> None:
    """Sends this process a signal in the middle of an iteration."""
    done = 0

    def forward(*ignored) -> None:
        nonlocal done
        done += 1
        if done > iterations:
            os.kill(os.getpid(), number)

    runner.model.bbox_head.register_forward_pre_hook(forward)


if __name__ == '__main__':
    main()

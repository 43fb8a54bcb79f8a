"""A program of test_runner.py: trains a tiny model with the Runner named and saves its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, RUNNERS
from torch import nn

SAMPLES = 8


@DATASETS.register_module()
class Line(torch.utils.data.Dataset):
    """Points whose target is their sum."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict:
        point = torch.sin(torch.arange(4) + index).float()
        return dict(point=point, target=point.sum(), index=index)


@MODELS.register_module()
class Fit(BaseModel):
    def __init__(self, sync_batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(get_rank())  # the wrapper must make the weights the same
        self.norm = nn.SyncBatchNorm(4) if sync_batch_norm else nn.Identity()
        self.linear = nn.Linear(4, 1)

    def forward(self, point, target, index, mode='tensor'):
        error = self.linear(self.norm(point))[:, 0] - target
        return dict(loss=error.square().mean()) if mode == 'loss' else list(index)


@METRICS.register_module()
class Seen(BaseMetric):
    """The indices of the samples that were tested, in order, in all processes together."""

    def process(self, data_batch, data_samples) -> None:
        self.results += [int(index) for index in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return dict(seen=results)


def config(runner: str, folder: str, launcher: str, batch_size: int, sync_batch_norm: bool) -> dict:
    loader = dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=dict(type='Line'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    return dict(
        runner_type=runner,
        launcher=launcher,
        work_dir=folder,
        model=dict(type='Fit', sync_batch_norm=sync_batch_norm),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=dict(type='Seen'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)),
    )


def main(runner: str, folder: str, launcher: str, batch_size: str, sync_batch_norm: str) -> None:
    runner = RUNNERS.build(
        config(runner, folder, launcher, int(batch_size), sync_batch_norm == 'True')
    )
    runner.train()
    model = runner.model.module if launcher != 'none' else runner.model
    seen = runner.test()
    result = dict(model.state_dict(), seen=seen.get('seen'))
    torch.save(result, Path(folder) / f'rank{get_rank()}.pth')


if __name__ == '__main__':
    main(*sys.argv[1:])

"""A program of test_sharded.py: a tiny Swin regresses its pictures' mean, in one or two processes.

Saves the weights of the plain model after ``--iterations`` as ``final0.pth`` of process 0 and so
on, and what it saw of the blocks and of FSDP's units as ``seen0.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import torch
from long_run import die_while_saving
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import DATASETS, MODELS, RUNNERS
from torch.distributed.fsdp import FullyShardedDataParallel

from swin_backbone import SwinTransformer
from swin_backbone.layers import SwinBlock

CONFIGS = Path(__file__).parents[2] / 'configs/_base_/runtime'


@DATASETS.register_module()
class Waves(torch.utils.data.Dataset):
    """Pictures that differ, always the same."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict:
        grid = torch.arange(3 * 32 * 32).reshape(3, 32, 32)
        return dict(inputs=torch.sin(grid * (index + 1) / 100).float())


@MODELS.register_module()
class Mean(BaseModel):
    last_iteration, iterations = None, 0

    def __init__(self, **backbone) -> None:
        super().__init__()
        torch.manual_seed(0)  # Runners of the two kinds come here after different draws
        self.backbone = SwinTransformer(**backbone)
        self.head = torch.nn.Linear(
            sum(self.backbone.num_features[i] for i in self.backbone.out_indices), 1
        )

    def init_weights(self) -> None:
        torch.manual_seed(0)
        super().init_weights()

    def forward(self, inputs, mode='tensor'):
        if self.iterations == self.last_iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        self.iterations += 1
        features = [feature.mean((2, 3)) for feature in self.backbone(inputs)]
        error = self.head(torch.cat(features, 1))[:, 0] - inputs.mean((1, 2, 3)) - 1
        return dict(loss=error.square().mean())


def config(given: argparse.Namespace) -> Config:
    small = dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), window_size=4)
    small |= dict(out_indices=(0, 1), drop_path_rate=0.0)
    settings = dict(
        runner_type='swin_backbone.engine.resume.ResumingRunner',
        custom_imports=dict(imports=['swin_backbone.engine.fsdp']),
        launcher=given.launcher,
        work_dir=str(given.folder),
        model=dict(type='Mean', **(small | json.loads(given.backbone))),
        train_dataloader=dict(
            batch_size=given.batch,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='Waves'),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=given.iterations),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            clip_grad=dict(max_norm=0.5),
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
            logger=dict(type='LoggerHook', interval=1),
        ),
        env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)),
        randomness=dict(seed=3),
        resume=True,
        log_processor=dict(by_epoch=False),
    )
    if given.runtime:
        settings |= Config.fromfile(CONFIGS / f'{given.runtime}.py').to_dict()
    result = Config(settings)
    result.merge_from_dict(json.loads(given.options))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--iterations', type=int, default=4)
    parser.add_argument('--runtime', default='')
    parser.add_argument('--backbone', default='{}')
    parser.add_argument('--options', default='{}')
    parser.add_argument('--die-in-save', type=int, help='of one process, half-way through it')
    parser.add_argument('--dying-process', type=int, default=0)
    parser.add_argument('--die-in-iteration', type=int, help='both processes')
    given = parser.parse_args()
    torch.set_num_threads(1)
    runner = RUNNERS.build(config(given))
    if given.die_in_save and get_rank() == given.dying_process:
        die_while_saving(given.die_in_save)
    Mean.last_iteration = given.die_in_iteration
    with watched_blocks() as seen:
        runner.train()
    model = runner.model
    units = FullyShardedDataParallel.fsdp_modules(model)
    seen['units'] = [type(unwrapped(unit)).__name__ for unit in units]
    (given.folder / f'seen{get_rank()}.json').write_text(json.dumps(seen))
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            weights = {k: v.clone() for k, v in clean(model.module).items()}
    else:
        weights = (model.module if is_model_wrapper(model) else model).state_dict()
    torch.save(weights, given.folder / f'final{get_rank()}.pth')


@contextmanager
def watched_blocks():
    """Notes how often blocks compute, and in which types."""
    forward, seen = SwinBlock.forward, dict(calls=0, types=[])

    def watched(block, x, *rest):
        seen['calls'] += 1
        kinds = [str(t.dtype) for t in (x, block.attn.w_msa.qkv.weight, block.norm1.weight)]
        seen['types'] = sorted({*seen['types'], *kinds})
        return forward(block, x, *rest)

    SwinBlock.forward = watched
    try:
        yield seen
    finally:
        SwinBlock.forward = forward


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """What is inside of FSDP's and activation checkpointing's wrappers."""
    for name in ('_fsdp_wrapped_module', '_checkpoint_wrapped_module'):
        module = getattr(module, name, module)
    return module


def clean(module: torch.nn.Module) -> dict:
    """A wrapped model's parameters by the names that they have in the plain one."""
    wrappers = ('_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
    named = {}
    for name, parameter in module.named_parameters():
        for wrapper in wrappers:
            name = name.replace(wrapper, '')
        named[name] = parameter.detach()
    return named


if __name__ == '__main__':
    main()

"""Runners that resume a killed run as if it had not been interrupted.

A config selects one with ``runner_type='swin_backbone.engine.resume.ResumingRunner'``, as this
package's configs do. Whatever ``default_hooks`` and ``custom_hooks`` say:

- A checkpoint is written to a temporary name and renamed; outdated ones are removed after that.
- ``resume=True`` loads the newest intact checkpoint and warns of damaged ones.
- Augmentations, drop path and the order of samples depend only on the seed and the iteration.
  Samples that were trained on are skipped without loading them, also in the middle of an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner, find_latest_checkpoint
from torch import nn

from ..files import move_into_place, remove
from ..weights import read_checkpoint
from .check_checkpoint import check_resumable, saves_optimizer
from .check_data import ChecksData, DataCheckingRunner
from .checkpoints import last_whole, read_mapped, read_meta
from .data_stream import Advanced, ResumableBatches, SeededIterationsHook, resumable

PART = '.part'  # ends the name of a checkpoint that is being written

# Hooks that are replaced by WholeCheckpointHook.
CHECKPOINT_HOOKS = ('CheckpointHook', 'mmengine.CheckpointHook')

# Default hooks in addition to mmengine's.
OWN_HOOKS = dict(
    non_finite='swin_backbone.engine.non_finite.NonFiniteHook',
    throughput='swin_backbone.engine.throughput.ThroughputHook',
)


_ARunner: Any = object  # the mix-in uses a Runner's or FlexibleRunner's attributes


class ResumesExactly(_ARunner):
    """Mix-in for ``Runner`` and ``FlexibleRunner``."""

    _resumed_meta: dict = {}
    _train_dataloader: Any
    _resume: Any
    _load_from: Any

    def train(self) -> nn.Module:
        """Finds the checkpoint to resume from, if any, and trains."""
        self._resumed_meta = self._choose_checkpoint() if self._resume else {}
        seed = self._resumed_meta.get('seed')
        if seed is not None and seed != self.seed:
            self._adopt_seed(seed)
        return super().train()

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As mmengine's, with atomic checkpoints and this package's hooks.

        ``default_hooks=dict(non_finite=None, throughput=None)`` turns these hooks off.
        """
        hooks = dict(hooks or {})
        hook = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
        if isinstance(hook, dict) and hook.get('type') in CHECKPOINT_HOOKS:
            hooks['checkpoint'] = dict(
                hook, type='swin_backbone.engine.checkpoints.WholeCheckpointHook'
            )
        for name, kind in OWN_HOOKS.items():
            hooks.setdefault(name, dict(type=kind))
        super().register_default_hooks({k: v for k, v in hooks.items() if v or k not in OWN_HOOKS})
        self.register_hook(SeededIterationsHook())

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's, with data that start where the resumed run continues."""
        position = self._resumed_meta.get('iter', 0)
        batches = resumable(self._train_dataloader, self.seed, position, position)
        self._train_dataloader = batches
        loop = super().build_train_loop(loop)
        batches = loop.dataloader.batch_sampler
        epoch = self._resumed_meta.get('epoch', 0)
        if isinstance(batches, ResumableBatches) and not hasattr(loop, 'dataloader_iterator'):
            # A pass is an epoch, and no batch has been requested yet.
            batches.skip = max(position - epoch * len(loop.dataloader), 0)
        return loop

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's; the data loader is already at its position."""
        super().resume(filename, *args, **kwargs)
        loop = self.train_loop
        batches = loop.dataloader.batch_sampler
        if isinstance(batches, ResumableBatches) and hasattr(loop, 'dataloader_iterator'):
            # Computed from the count, since newer mmengines request no data before training.
            loop.dataloader_iterator._epoch = max(loop.iter - 1, 0) // max(len(batches), 1)
            loop.dataloader_iterator = Advanced(loop.dataloader_iterator, loop.iter)

    def _choose_checkpoint(self) -> dict:
        """Sets ``load_from`` to the checkpoint to resume from; returns its meta, {} if none."""
        choice: list[Any] = [None, {}]
        if is_main_process():
            path = self._resume if isinstance(self._resume, str) else self._load_from
            if path is None:
                path = last_whole(self.work_dir)
            if path is not None and '://' not in str(path):
                choice = [str(path), _without_texts(self._checked_meta(path))]
        broadcast_object_list(choice)
        path, meta = choice
        if self._load_from is None and path is None:
            if find_latest_checkpoint(self.work_dir):
                print_log('No whole checkpoint to resume from', 'current', logging.WARNING)
            self._resume = False
        self._load_from = self._load_from or path
        return meta

    def _checked_meta(self, path: str | Path) -> dict:
        """The meta of the checkpoint to resume from.

        Raises:
            CheckpointError: It cannot be resumed from.
        """
        if Path(path).is_dir():
            return read_meta(Path(path))
        try:
            content = read_mapped(Path(path))
        except Exception:  # not a file of torch, or an old one, which is read as a whole
            content = read_checkpoint(path)
        check_resumable(content, str(path), optimizer=saves_optimizer(self))
        return content['meta']

    def _save_whole(
        self, save: Any, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Saves under a temporary name, which is renamed when the file is complete."""
        remote = '://' in out_dir or kwargs.get('backend_args') or kwargs.get('file_client_args')
        if remote or any(args):
            save(out_dir, filename, *args, **kwargs)
            return
        part = Path(out_dir) / (filename + PART)
        try:
            save(out_dir, part.name, **kwargs)
        except BaseException:
            remove(part)
            raise
        if part.is_dir():
            barrier()
        if is_main_process():
            move_into_place(part, Path(out_dir) / filename)


@RUNNERS.register_module()
class ResumingRunner(ResumesExactly, DataCheckingRunner):
    """mmengine's Runner that resumes exactly, on any device, and checks its data first.

    For a config with ``strategy`` it builds a :class:`ResumingFlexibleRunner`, so that this key
    alone selects FSDP or DeepSpeed.
    """

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Runner | FlexibleRunner:
        """Builds the Runner that a config needs."""
        if cfg.get('strategy') is not None:
            return ResumingFlexibleRunner.from_cfg(cfg)
        return super().from_cfg(cfg)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, in the first process only, and atomically.

        Raises:
            OSError: The file cannot be written, for example on a full disk. Earlier checkpoints
                are unchanged.
        """
        if is_main_process():
            remove(Path(out_dir) / (filename + PART))  # left by a killed run
            self._save_whole(super().save_checkpoint, out_dir, filename, *args, **kwargs)

    def _adopt_seed(self, seed: int) -> None:
        print_log(f'Seed {seed}, of the run that is resumed', 'current', logging.INFO)
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)


@RUNNERS.register_module()
class ResumingFlexibleRunner(ResumesExactly, ChecksData, FlexibleRunner):
    """mmengine's ``FlexibleRunner`` that resumes exactly and checks its data first.

    It runs FSDP and DeepSpeed.
    """

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, in all processes together, and atomically."""
        if is_main_process():
            remove(Path(out_dir) / (filename + PART))
        barrier()
        self._save_whole(super().save_checkpoint, out_dir, filename, *args, **kwargs)
        barrier()

    def _adopt_seed(self, seed: int) -> None:
        print_log(f'Seed {seed}, of the run that is resumed', 'current', logging.INFO)
        self.strategy._set_randomness(**dict(self.strategy.randomness, seed=seed))


def _without_texts(meta: dict) -> dict:
    """The part of a checkpoint's meta that all processes need."""
    return {key: meta[key] for key in ('epoch', 'iter', 'seed') if key in meta}

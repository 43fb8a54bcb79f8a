"""Runners for long runs: what was killed continues as if it had not been.

A config asks for one with ``runner_type='swin_backbone.engine.resume.ResumingRunner'``, as this
package's do. Whatever the config's ``default_hooks`` and ``custom_hooks`` say, with it

- a checkpoint is written beside its name and renamed, and outdated ones go after that;
- ``resume=True`` takes the newest whole checkpoint, and names those that are damaged;
- augmentations, drop path and the order of samples depend on the seed and the iteration alone, so
  that nothing has to be loaded to skip what was trained on, mid-epoch included.
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

# What is swapped for its whole-or-absent version.
CHECKPOINT_HOOKS = ('CheckpointHook', 'mmengine.CheckpointHook')

# Default hooks beside mmengine's.
OWN_HOOKS = dict(
    non_finite='swin_backbone.engine.non_finite.NonFiniteHook',
    throughput='swin_backbone.engine.throughput.ThroughputHook',
)


_ARunner: Any = object  # which has either Runner's attributes where it is mixed in


class ResumesExactly(_ARunner):
    """The part that is common to Runners of both kinds; a mix-in."""

    _resumed_meta: dict = {}
    _train_dataloader: Any
    _resume: Any
    _load_from: Any

    def train(self) -> nn.Module:
        """Finds the checkpoint to resume from, if it is to be resumed, and trains."""
        self._resumed_meta = self._choose_checkpoint() if self._resume else {}
        seed = self._resumed_meta.get('seed')
        if seed is not None and seed != self.seed:
            self._adopt_seed(seed)
        return super().train()

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As mmengine's, with whole checkpoints and this package's hooks.

        A config leaves one out by ``default_hooks=dict(non_finite=None)`` or ``throughput=None``.
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
        """As mmengine's, over data that begin where a resumed run goes on."""
        position = self._resumed_meta.get('iter', 0)
        batches = resumable(self._train_dataloader, self.seed, position, position)
        self._train_dataloader = batches
        loop = super().build_train_loop(loop)
        batches = loop.dataloader.batch_sampler
        epoch = self._resumed_meta.get('epoch', 0)
        if isinstance(batches, ResumableBatches) and not hasattr(loop, 'dataloader_iterator'):
            # Passes are epochs, and nothing of them has been asked for yet.
            batches.skip = max(position - epoch * len(loop.dataloader), 0)
        return loop

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's; the data are there already."""
        super().resume(filename, *args, **kwargs)
        loop = self.train_loop
        batches = loop.dataloader.batch_sampler
        if isinstance(batches, ResumableBatches) and hasattr(loop, 'dataloader_iterator'):
            # Told from the count: newer mmengines ask for nothing of the data before they train.
            loop.dataloader_iterator._epoch = max(loop.iter - 1, 0) // max(len(batches), 1)
            loop.dataloader_iterator = Advanced(loop.dataloader_iterator, loop.iter)

    def _choose_checkpoint(self) -> dict:
        """Sets ``load_from`` to the checkpoint to resume from; returns its meta, {} of none."""
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
        except Exception:  # no file of torch's, or an old one: this one reads all, or says why not
            content = read_checkpoint(path)
        check_resumable(content, str(path), optimizer=saves_optimizer(self))
        return content['meta']

    def _save_whole(
        self, save: Any, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Saves under a passing name, and renames that when it is complete."""
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
    """mmengine's Runner with all the above, on any device, its data checked first.

    For a config with a ``strategy`` it builds a :class:`ResumingFlexibleRunner` in its place, so
    that FSDP or DeepSpeed is a matter of that key alone.
    """

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Runner | FlexibleRunner:
        """Builds the Runner that a config needs."""
        if cfg.get('strategy') is not None:
            return ResumingFlexibleRunner.from_cfg(cfg)
        return super().from_cfg(cfg)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's: by the first process alone; but whole or not at all.

        Raises:
            OSError: It cannot be written, as on a full disk; those before it are untouched.
        """
        if is_main_process():
            remove(Path(out_dir) / (filename + PART))  # what a killed run may have left
            self._save_whole(super().save_checkpoint, out_dir, filename, *args, **kwargs)

    def _adopt_seed(self, seed: int) -> None:
        print_log(f'Seed {seed}, of the run that is resumed', 'current', logging.INFO)
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)


@RUNNERS.register_module()
class ResumingFlexibleRunner(ResumesExactly, ChecksData, FlexibleRunner):
    """mmengine's ``FlexibleRunner`` with all the above, its data checked first.

    For FSDP and DeepSpeed.
    """

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine's, by all processes together; but whole or not at all."""
        if is_main_process():
            remove(Path(out_dir) / (filename + PART))
        barrier()
        self._save_whole(super().save_checkpoint, out_dir, filename, *args, **kwargs)
        barrier()

    def _adopt_seed(self, seed: int) -> None:
        print_log(f'Seed {seed}, of the run that is resumed', 'current', logging.INFO)
        self.strategy._set_randomness(**dict(self.strategy.randomness, seed=seed))


def _without_texts(meta: dict) -> dict:
    """What of a checkpoint's meta the processes have to know."""
    return {key: meta[key] for key in ('epoch', 'iter', 'seed') if key in meta}

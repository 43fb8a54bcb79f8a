"""Which checkpoints are complete, and a hook that always keeps at least one that is."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..errors import CheckpointError
from ..files import write
from ..weights import torch_files
from ..weights.distributed_checkpoints import PLAIN_WEIGHTS, file_in, is_rank_folder, missing_rank


def damage(path: Path) -> str | None:
    """The damage of a checkpoint, a file or a folder with one file per rank; None if intact.

    Reads all of it and compares the checksums that torch wrote.
    """
    files = sorted(path.rglob('*.p*t*')) if path.is_dir() else [path]
    if not files:
        return 'no file in it'
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            return f'{file.name}: {error}'
        if bad:
            return f'{file.name}: wrong checksum of {bad}'
    missing = missing_rank(path) if is_rank_folder(path) else None
    return f'{missing} is not there' if missing else None


def read_meta(path: Path) -> dict:
    """The ``meta`` of a checkpoint (epoch, iteration, seed); {} if it has none."""
    file = file_in(path) if path.is_dir() else path
    if file is None:
        return {}
    content = read_mapped(file)
    resumable = 'optimizer' in content or file.name == PLAIN_WEIGHTS
    return content.get('meta', {}) if resumable else {}


def read_mapped(file: Path) -> Any:
    """The content of a file that torch wrote, with memory-mapped tensors if possible."""
    return torch_files.load(file, map_location='cpu', mmap=True)


def last_whole(work_dir: str | Path) -> Path | None:
    """The newest intact checkpoint of a run that can be resumed; warns of damaged ones.

    Raises:
        CheckpointError: An intact checkpoint cannot be unpickled. Starting over would lose the run.
    """
    for path in _newest_first(Path(work_dir)):
        problem = damage(path)
        if problem is None:
            try:
                if read_meta(path):
                    return path
                continue  # weights only, as in the best checkpoint
            except Exception as error:  # unpickling may raise anything
                raise CheckpointError(
                    f'{path} is intact, but cannot be read to resume from it: {error}'
                ) from error
        print_log(
            f'Not resuming from {path}: it is damaged ({problem})',
            logger='current',
            level=logging.WARNING,
        )
    return None


def _newest_first(work_dir: Path) -> list[Path]:
    folders = {work_dir}
    record = work_dir / 'last_checkpoint'
    if record.is_file() and (named := record.read_text().strip()):
        folders.add(Path(named).parent)
    found = {path for folder in folders if folder.is_dir() for path in folder.glob('*.pth')}
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with at least one intact checkpoint at any time.

    It removes outdated checkpoints after the new one is written, not before, and replaces the file
    ``last_checkpoint`` atomically. The Runner writes the checkpoint itself.
    """

    file_backend: Any

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        outdated = self._outdated(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write(Path(runner.work_dir) / 'last_checkpoint', self.last_ckpt)
        for path in outdated:
            self._remove(path)

    def _outdated(self, runner: Any, step: int) -> list[str]:
        """Adds a step to the checkpoints to keep; returns the paths of those to remove."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return []
        steps = [*self.keep_ckpt_ids, step]
        outdated = steps[: -self.max_keep_ckpts]
        self.keep_ckpt_ids.append(step)  # its length is limited
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        names = [self.filename_tmpl.format(old) for old in outdated]
        return [self.file_backend.join_path(self.out_dir, name) for name in names]

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # sharded
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        kept = {getattr(self, 'best_ckpt_path', None)}
        kept |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in later.removals:
            if path not in kept:
                self._remove(path)


class _RemovesLater:
    """A file backend that records removals instead of doing them."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removals: list[str] = []

    def remove(self, path: str) -> None:
        self.removals.append(path)

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

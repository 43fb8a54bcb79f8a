"""Checkpoints: written whole, found whole, removed late."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from swin_backbone.engine.checkpoints import (
    WholeCheckpointHook,
    damage,
    last_whole,
    read_meta,
)
from swin_backbone.engine.resume import ResumingRunner


def saved(file: Path, iteration: int, **content) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    meta = dict(iter=iteration, epoch=0, seed=3)
    weights = dict(weight=torch.arange(1000.0))
    torch.save(dict(meta=meta, state_dict=weights, **(content or dict(optimizer={}))), file)
    stamp = 1_700_000_000 + iteration
    os.utime(file, (stamp, stamp))
    return file


def flipped(file: Path) -> None:
    """One bit of the weights is wrong."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def emptied(file: Path) -> None:
    file.write_bytes(b'')


@pytest.mark.parametrize('harm', [flipped, truncated, emptied])
def test_damaged_checkpoints_are_passed_over(tmp_path, harm):
    older, newer = saved(tmp_path / 'iter_1.pth', 1), saved(tmp_path / 'iter_2.pth', 2)
    assert damage(newer) is None and last_whole(tmp_path) == newer
    harm(newer)
    os.utime(newer, (1_800_000_000, 1_800_000_000))
    assert damage(newer) and last_whole(tmp_path) == older
    older.unlink()
    assert last_whole(tmp_path) is None


def test_weights_alone_cannot_be_resumed(tmp_path):
    whole = saved(tmp_path / 'iter_1.pth', 1)
    saved(tmp_path / 'best_iter_2.pth', 2, message_hub={})
    assert last_whole(tmp_path) == whole
    assert read_meta(whole) == dict(iter=1, epoch=0, seed=3)


def test_sharded_checkpoints_need_every_rank_whole(tmp_path):
    first = saved(tmp_path / 'iter_1.pth/rank0.pth', 1)
    second = saved(tmp_path / 'iter_1.pth/rank1.pth', 1)
    assert last_whole(tmp_path) == first.parent
    truncated(second)
    assert 'rank1.pth' in damage(first.parent)
    (tmp_path / 'iter_2.pth').mkdir()
    assert damage(tmp_path / 'iter_2.pth') == 'no file in it'


def test_checkpoints_kept_elsewhere_are_found_by_the_record(tmp_path):
    there = saved(tmp_path / 'there/iter_1.pth', 1)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(str(there))
    assert last_whole(tmp_path / 'run') == there


def hook_in(folder: Path, events: list) -> tuple[WholeCheckpointHook, SimpleNamespace]:
    hook = WholeCheckpointHook(by_epoch=False, max_keep_ckpts=1, save_best='map', rule='greater')
    hook.out_dir, hook.file_backend = str(folder), LocalBackend()
    hook.keep_ckpt_ids, hook.best_ckpt_path = deque(maxlen=1), None

    def save(out_dir, filename, *args, **kwargs):
        (Path(out_dir) / filename).write_text('')
        events.append(sorted(path.name for path in folder.glob('*.pth')))

    hub = MessageHub('test_checkpoints')
    logger = SimpleNamespace(info=lambda text: None)
    runner = SimpleNamespace(
        work_dir=str(folder), message_hub=hub, save_checkpoint=save, iter=0, epoch=0, logger=logger
    )
    return hook, runner


def test_the_last_one_goes_only_when_the_next_is_there(tmp_path):
    events = []
    hook, runner = hook_in(tmp_path, events)
    for step in (1, 2):
        hook._save_checkpoint_with_step(runner, step, {})
    assert events == [['iter_1.pth'], ['iter_1.pth', 'iter_2.pth']]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    assert runner.message_hub.get_info('keep_ckpt_ids') == [2]


def test_the_best_one_goes_only_when_a_better_is_there(tmp_path):
    events = []
    hook, runner = hook_in(tmp_path, events)
    for runner.iter, score in ((1, 0.2), (2, 0.3), (2, 0.4)):
        hook._save_best_checkpoint(runner, dict(map=score))
    assert events[1] == ['best_map_iter_1.pth', 'best_map_iter_2.pth']
    assert [path.name for path in tmp_path.glob('*.pth')] == ['best_map_iter_2.pth']


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / 'iter_1.pth').write_text('old')

    def fail(self, out_dir, filename, **kwargs):
        (Path(out_dir) / filename).write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Runner, 'save_checkpoint', fail)
    with pytest.raises(OSError, match='No space left'):
        object.__new__(ResumingRunner).save_checkpoint(str(tmp_path), 'iter_1.pth')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'iter_1.pth': 'old'}

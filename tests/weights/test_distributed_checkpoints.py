"""Checkpoints with one file per process: splitting, joining by any number of processes, checks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from swin_backbone import CheckpointError
from swin_backbone.cli.commands import commands
from swin_backbone.engine.checkpoints import damage, last_whole
from swin_backbone.weights import read_checkpoint
from swin_backbone.weights.distributed_checkpoints import join, rank_file, split

WHOLE = {
    'head.weight': torch.arange(35.0).reshape(5, 7),
    'head.bias': torch.arange(5.0),
    'one.weight': torch.ones(1, 2),
}


def saved(folder: Path, ranks: int, iteration: int = 4) -> Path:
    """The files of all processes for ``WHOLE`` and its optimizer state; ``running`` differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(ranks):

        def local(value, rank=rank):
            if not isinstance(value, torch.Tensor) or value.dim() == 0:
                return None
            each = math.ceil(len(value) / ranks)
            first = min(rank * each, len(value))
            return value[first : first + each].clone(), first, tuple(value.shape)

        states = {key: {'exp_avg': -value, 'step': 4} for key, value in WHOLE.items()}
        content = dict(
            meta=dict(iter=iteration, epoch=0, seed=3),
            state_dict=dict(WHOLE, running=torch.tensor(float(rank))),
            optimizer=dict(state=states, param_groups=[dict(params=list(WHOLE), lr=0.1)]),
        )
        split(content, rank, ranks, local)
        torch.save(content, rank_file(folder, rank))
    return folder


def assert_whole(content: dict) -> None:
    assert 'shards' not in content
    for key, value in WHOLE.items():
        assert torch.equal(content['state_dict'][key], value)
        assert torch.equal(content['optimizer']['state'][key]['exp_avg'], -value)
        assert content['optimizer']['state'][key]['step'] == 4
    assert content['optimizer']['param_groups'] == [dict(params=list(WHOLE), lr=0.1)]


@pytest.mark.parametrize('ranks', [1, 2, 3, 8])
def test_joined_files_are_the_whole_checkpoint(tmp_path, ranks):
    folder = saved(tmp_path / 'iter_4.pth', ranks)
    assert_whole(join(folder))
    assert_whole(read_checkpoint(folder))
    assert last_whole(tmp_path) == folder


@pytest.mark.parametrize('now', [1, 2, 3, 4])
def test_any_number_of_processes_reads_its_rows(tmp_path, now):
    folder = saved(tmp_path, 3)
    for rank in range(now):
        content = join(folder, lambda rows, rank=rank: rows.read(2 * rank, 2), rank, now)
        assert torch.equal(
            content['state_dict']['head.weight'], WHOLE['head.weight'][2 * rank :][:2]
        )
        assert content['state_dict']['running'] == (rank if now == 3 else 0)


def test_one_file_of_all(tmp_path):
    folder, file = saved(tmp_path / 'iter_4.pth', 2), tmp_path / 'whole.pth'
    words = ['weights', 'join', str(folder), str(file)]
    assert CliRunner().invoke(commands, words).exit_code == 0
    assert_whole(torch.load(file, weights_only=True))
    assert CliRunner().invoke(commands, [*words, '--weights-only']).exit_code == 0
    assert set(torch.load(file)) == {'meta', 'state_dict'}
    assert not list(tmp_path.glob('.*'))


def test_a_file_that_is_missing_or_of_another_checkpoint(tmp_path):
    folder = saved(tmp_path / 'iter_4.pth', 3)
    rank_file(folder, 1).replace(tmp_path / 'kept')
    assert damage(folder) == 'rank1.pth is not there'
    with pytest.raises(CheckpointError, match=r'not whole: rank1\.pth is not there'):
        read_checkpoint(folder)
    other = saved(tmp_path / 'iter_6.pth', 3, iteration=6)
    rank_file(other, 1).replace(rank_file(folder, 1))
    with pytest.raises(CheckpointError, match='not of one checkpoint'):
        read_checkpoint(folder)


def changed(folder: Path, change) -> Path:
    content = torch.load(rank_file(folder, 1))
    change(content)
    torch.save(content, rank_file(folder, 1))
    return folder


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c['shards']['rows'].pop(('state_dict', 'head.weight')), 'are missing'),
        (lambda c: c['state_dict'].update({'head.weight': torch.ones(1, 7)}), 'are missing'),
        (lambda c: c['state_dict'].update({'head.weight': torch.ones(2, 6)}), 'are missing'),
        (lambda c: c['state_dict'].pop('head.weight'), 'cannot be read'),
        (lambda c: c.pop('shards'), 'cannot be read|do not say'),
        (lambda c: c['shards'].update(ranks=7), 'not of one checkpoint'),
    ],
)
def test_files_that_do_not_match_are_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(changed(saved(tmp_path, 2), change))


def test_no_code_is_run(tmp_path):
    folder = saved(tmp_path, 2)
    torch.save(dict(meta={}, state_dict=print, shards={}), rank_file(folder, 1))
    with pytest.raises(CheckpointError, match='refused'):
        read_checkpoint(folder)


def test_folders_of_other_programs_are_refused(tmp_path):
    torch.save(dict(meta={}, state_dict={}), rank_file(tmp_path, 0))
    with pytest.raises(CheckpointError, match='do not say how they go together'):
        read_checkpoint(tmp_path)

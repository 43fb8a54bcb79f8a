"""Runs that were killed end at the weights of one that was not, bit for bit: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.device import get_device

PROGRAM = Path(__file__).with_name('long_run.py')

pytestmark = pytest.mark.skipif(get_device() != 'cpu', reason='bit for bit on CPUs')

KINDS = {
    'iterations': (),
    'iterations, workers': ('--workers', '2'),
    'epochs': ('--epochs',),
    'epochs, workers': ('--epochs', '--workers', '2'),
}


@pytest.fixture(scope='module')
def run(fresh) -> Callable[..., tuple[int, str]]:
    """Trains in a folder, in a real process; returns its exit status and what it prints."""

    def run(folder: Path, *options: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
        if not prefix:
            result = fresh.run(PROGRAM, folder, *options, merged=True)
            return result.returncode, result.stdout
        result = subprocess.run(
            [*prefix, sys.executable, str(PROGRAM), str(folder), *options],
            env=dict(os.environ, OMP_NUM_THREADS='1'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return result.returncode, result.stdout

    return run


@pytest.fixture(scope='module')
def uninterrupted(run, tmp_path_factory):
    """What a run of a kind ends at, run once for all tests of this kind."""
    ends = {}

    def end(kind: str) -> dict:
        if kind not in ends:
            folder = tmp_path_factory.mktemp('uninterrupted')
            code, output = run(folder, *KINDS[kind])
            assert code == 0, output
            ends[kind] = torch.load(folder / 'final.pth')
        return ends[kind]

    return end


@pytest.fixture(scope='module')
def assert_ends_as(run) -> Callable[..., str]:
    """Resumes a run; what it printed."""

    def assert_ends_as(expected: dict, folder: Path, *options: str) -> str:
        code, output = run(folder, *options)
        assert code == 0, output
        ended = torch.load(folder / 'final.pth')
        for part, tensors in expected.items():
            assert all(torch.equal(ended[part][key], tensors[key]) for key in tensors), part
        return output

    return assert_ends_as


def test_killed_while_saving(run, assert_ends_as, tmp_path, uninterrupted):
    code, _ = run(tmp_path, '--die-in-save', '2')
    assert code == -signal.SIGKILL
    assert {path.name for path in tmp_path.glob('*.pth*')} == {'iter_5.pth', 'iter_10.pth.part'}
    assert_ends_as(uninterrupted('iterations'), tmp_path)
    assert not list(tmp_path.glob('*.part'))


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_killed_in_an_iteration(run, assert_ends_as, tmp_path, uninterrupted, kind):
    code, _ = run(tmp_path, *KINDS[kind], '--stop-after', '13')
    assert code == -signal.SIGKILL
    assert_ends_as(uninterrupted(kind), tmp_path, *KINDS[kind])


@pytest.mark.slow
def test_terminated_twice(run, assert_ends_as, tmp_path, uninterrupted):
    for _ in range(2):
        code, _ = run(tmp_path, '--stop-after', '8', '--signal', 'SIGTERM')
        assert code == -signal.SIGTERM
    assert_ends_as(uninterrupted('iterations'), tmp_path)


@pytest.mark.slow
def test_last_checkpoint_damaged_afterwards(run, assert_ends_as, tmp_path, uninterrupted):
    run(tmp_path, '--stop-after', '13')
    last = tmp_path / 'iter_10.pth'
    last.write_bytes(last.read_bytes()[:-1000])
    output = assert_ends_as(uninterrupted('iterations'), tmp_path)
    assert f'Not resuming from {last}: it is damaged' in output


@pytest.mark.slow
def test_another_number_of_workers(run, assert_ends_as, tmp_path, uninterrupted):
    run(tmp_path, '--stop-after', '13', '--workers', '2')
    assert_ends_as(uninterrupted('iterations'), tmp_path)


@pytest.mark.slow
def test_full_disk(run, assert_ends_as, tmp_path, uninterrupted):
    """On a file system with room for one checkpoint, then on one with room for all."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1200k', 'tmpfs', str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'no tmpfs can be mounted here: {mounted.stderr.strip()}')
    try:
        code, output = run(disk)
        assert code == 1 and 'No space left on device' in output, output
        assert len(list(disk.glob('iter_*.pth'))) == 1 and not list(disk.glob('*.part'))
        subprocess.run(['mount', '-o', 'remount,size=64m', str(disk)], check=True)
        assert_ends_as(uninterrupted('iterations'), disk)
    finally:
        subprocess.run(['umount', str(disk)], check=True)


@pytest.mark.slow
def test_file_size_limit(run, assert_ends_as, tmp_path, uninterrupted):
    """The kernel refuses the checkpoint's last bytes, as a full disk or a quota does."""
    code, output = run(tmp_path, prefix=('bash', '-c', 'ulimit -f 300; exec "$@"', 'bash'))
    assert code != 0 and 'Errno' in output, output
    assert not list(tmp_path.glob('*.pth*'))
    assert_ends_as(uninterrupted('iterations'), tmp_path)


@pytest.mark.slow
def test_a_drawn_seed_is_kept(run, tmp_path):
    """Without a seed in the config, a resumed run keeps the first one's order of samples."""
    code, _ = run(tmp_path, '--no-seed', '--stop-after', '8')
    assert code == -signal.SIGKILL
    seed = torch.load(tmp_path / 'iter_5.pth', weights_only=True)['meta']['seed']
    code, output = run(tmp_path, '--no-seed')
    assert code == 0, output
    assert torch.load(tmp_path / 'iter_20.pth', weights_only=True)['meta']['seed'] == seed

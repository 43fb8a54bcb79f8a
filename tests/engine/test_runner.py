"""AnyDeviceRunner: two real processes on CPUs; mmengine's Runner where there is an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fresh import Outcome
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from swin_backbone.engine import runner as module
from swin_backbone.engine.runner import AnyDeviceRunner

PROGRAM = Path(__file__).with_name('two_processes.py')
OURS = 'swin_backbone.engine.runner.AnyDeviceRunner'

on_cpus = pytest.mark.skipif(get_device() != 'cpu', reason='this is for machines without a GPU')


@pytest.fixture(scope='module')
def run(fresh) -> Callable[..., Outcome]:
    """Trains in a folder with the Runner named, in real processes."""

    def run(
        folder: Path, runner: str, processes: int, batch: int, sync_batch_norm: bool = False
    ) -> Outcome:
        launcher = 'pytorch' if processes > 1 else 'none'
        return fresh.run(
            *(PROGRAM, runner, folder, launcher, batch, sync_batch_norm),
            env=dict(GLOO_SOCKET_IFNAME='lo'),
            cwd=folder,
            processes=processes,
        )

    return run


def weights(folder: Path, rank: int) -> dict:
    return torch.load(folder / f'rank{rank}.pth')


@pytest.fixture(scope='module')
def folder(run, tmp_path_factory) -> Path:
    """What two processes left that trained on two samples each."""
    folder = tmp_path_factory.mktemp('two')
    result = run(folder, OURS, processes=2, batch=2)
    assert result.returncode == 0, result.stderr
    return folder


@on_cpus
def test_two_processes_train_as_one_with_twice_the_batch(run, folder, tmp_path):
    assert run(tmp_path, OURS, processes=1, batch=4).returncode == 0
    single, first, second = weights(tmp_path, 0), weights(folder, 0), weights(folder, 1)
    for key in ('linear.weight', 'linear.bias'):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        torch.testing.assert_close(first[key], single[key])


@on_cpus
def test_results_of_both_processes_are_collected_in_order(folder):
    assert weights(folder, 0)['seen'] == list(range(8))


@on_cpus
def test_synchronised_batch_norm_becomes_each_process_its_own(run, tmp_path):
    result = run(tmp_path, OURS, processes=2, batch=2, sync_batch_norm=True)
    assert result.returncode == 0, result.stderr
    assert 'batch norm is not synchronised' in result.stdout + result.stderr
    first, second = weights(tmp_path, 0), weights(tmp_path, 1)
    torch.testing.assert_close(first['norm.weight'], second['norm.weight'], rtol=0, atol=0)
    assert (first['norm.running_mean'] - second['norm.running_mean']).abs().max() > 1e-3


@on_cpus
def test_mmengine_alone_stops(run, tmp_path):
    """The reason for this Runner: when this fails, mmengine has learned it."""
    result = run(tmp_path, 'mmengine.runner.Runner', processes=2, batch=2)
    assert result.returncode != 0 and 'cuda' in result.stderr.lower()


@pytest.fixture
def recorded(monkeypatch) -> list:
    """What reaches mmengine's Runner."""
    calls = []
    monkeypatch.setattr(Runner, 'setup_env', lambda self, cfg: calls.append(cfg))
    monkeypatch.setattr(Runner, 'wrap_model', lambda self, cfg, model: calls.append((cfg, model)))
    return calls


def bare_runner(launcher: str, **cfg) -> AnyDeviceRunner:
    runner = object.__new__(AnyDeviceRunner)
    runner._launcher, runner._distributed, runner.cfg = launcher, launcher != 'none', cfg
    return runner


@pytest.mark.parametrize('launcher, device', [('pytorch', 'cuda'), ('none', 'cpu')])
def test_is_mmengines_with_an_accelerator_or_without_launcher(
    monkeypatch, recorded, launcher, device
):
    monkeypatch.setattr(module, 'get_device', lambda: device)
    runner, model = bare_runner(launcher), nn.SyncBatchNorm(2)
    runner.setup_env({})
    runner.wrap_model(None, model)
    assert recorded == [{}, (None, model)]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    'given, wanted',
    [
        (
            None,
            dict(
                type='MMDistributedDataParallel',
                broadcast_buffers=False,
                find_unused_parameters=True,
                device_ids=None,
            ),
        ),
        (
            dict(static_graph=True),
            dict(type='MMDistributedDataParallel', static_graph=True, device_ids=None),
        ),
        (
            dict(type='MMFullyShardedDataParallel'),
            dict(type='MMFullyShardedDataParallel'),
        ),
    ],
)
def test_wrapper_settings_are_kept(monkeypatch, recorded, given, wanted):
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    model = nn.Linear(2, 2)
    bare_runner('pytorch', find_unused_parameters=True).wrap_model(given, model)
    assert recorded == [(wanted, model)]


class Other(Runner):
    """Somebody else's."""


@pytest.mark.parametrize(
    'asked, built',
    [
        ({}, AnyDeviceRunner),
        (dict(runner_type=OURS), AnyDeviceRunner),
        (dict(runner_type='Runner'), Runner),
        (dict(runner_type=Other), Other),
    ],
)
def test_from_cfg_builds_the_runner_that_a_config_asks_for(monkeypatch, asked, built):
    """mmseg's test script calls it whatever the config says."""
    monkeypatch.setattr(Runner, '__init__', lambda self, **settings: None)
    assert type(Runner.from_cfg(dict(model=None, work_dir='.', **asked))) is built
    assert type(Other.from_cfg(dict(model=None, work_dir='.', **asked))) is Other


def test_unknown_runner_type_is_named():
    with pytest.raises(KeyError, match='NoSuchRunner'):
        Runner.from_cfg(dict(model=None, work_dir='.', runner_type='NoSuchRunner'))

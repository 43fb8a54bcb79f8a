"""DeepSpeed's ZeRO in two real processes: trained, saved, killed, resumed, loaded without it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.device import get_device
from sharded import Mean
from test_sharded import SMALL, assert_ends_as, run

from swin_backbone import ArgumentError, SwinTransformer
from swin_backbone.engine.checkpoints import last_whole
from swin_backbone.weights import read_checkpoint

# mmengine 0.10.7 imports DeepSpeed's 1-bit optimizers, which 0.19 has no longer.
USABLE = importlib.util.find_spec('deepspeed') and importlib.util.find_spec(
    'deepspeed.runtime.fp16.onebit'
)
pytestmark = [
    pytest.mark.skipif(get_device() != 'cpu', reason='gloo, on CPUs'),
    pytest.mark.skipif(not USABLE, reason='needs deepspeed<0.19'),
    pytest.mark.slow,
]

ADAM = {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=1e-3)}
FULL_PRECISION = {'strategy.bf16': None, 'strategy.inputs_to_half': None, **ADAM}
DROPS = ('--backbone', json.dumps(dict(drop_path_rate=0.3)))


@pytest.fixture(scope='module')
def single(tmp_path_factory) -> dict:
    """The weights that one process without DeepSpeed ends at."""
    folder = tmp_path_factory.mktemp('single')
    run(folder, processes=1, **ADAM)
    return torch.load(folder / 'final0.pth')


@pytest.mark.parametrize('stage', [2, 3])
def test_it_trains_as_one_process_and_saves_for_the_plain_model(tmp_path, single, stage):
    run(tmp_path, '--runtime', f'deepspeed_zero{stage}', **FULL_PRECISION)
    folder = tmp_path / 'iter_4.pth'
    saved = read_checkpoint(folder)['state_dict']
    Mean(**SMALL, out_indices=(0, 1)).load_state_dict(saved)
    for key, weight in single.items():
        torch.testing.assert_close(saved[key], weight, rtol=1e-5, atol=2e-6)
    init = dict(type='Pretrained', checkpoint=str(folder))
    SwinTransformer(**SMALL, out_indices=(0, 1), init_cfg=init).init_weights()
    assert last_whole(tmp_path) == folder


@pytest.mark.parametrize('stage', [2, 3])
def test_killed_it_resumes(tmp_path, stage):
    words = ('--runtime', f'deepspeed_zero{stage}', *DROPS)
    killed, undisturbed = tmp_path / 'killed', tmp_path / 'undisturbed'
    for folder in (killed, undisturbed):
        folder.mkdir()
    run(undisturbed, *words, **FULL_PRECISION)
    run(killed, *words, '--die-in-iteration', '3', fails=True, **FULL_PRECISION)
    assert 'resumed epoch: 0, iter: 2' in run(killed, *words, **FULL_PRECISION)
    assert_ends_as(undisturbed, killed)
    assert_same(undisturbed / 'iter_4.pth', killed / 'iter_4.pth')


def assert_same(first: Path, second: Path) -> None:
    one, other = (read_checkpoint(folder)['state_dict'] for folder in (first, second))
    assert one.keys() == other.keys() and len(one) > 40
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize('stage', [2, 3])
def test_the_runtime_as_it_is(tmp_path, stage):
    """In bfloat16, over float32 weights, which are saved."""
    run(tmp_path, '--runtime', f'deepspeed_zero{stage}', **ADAM)
    seen = json.loads((tmp_path / 'seen0.json').read_text())
    assert seen['types'] == ['torch.bfloat16']
    saved = read_checkpoint(tmp_path / 'iter_4.pth')['state_dict']
    parameters = [value for key, value in saved.items() if key.endswith(('weight', 'bias'))]
    assert all(value.dtype == torch.float32 for value in parameters)
    assert any((value != value.bfloat16().float()).any() for value in parameters)


def test_clipping_by_value_is_refused(tmp_path):
    options = {'optim_wrapper.clip_grad': dict(type='value', clip_value=1.0, _delete_=True)}
    output = run(tmp_path, '--runtime', 'deepspeed_zero2', fails=True, **FULL_PRECISION, **options)
    assert ArgumentError.__name__ in output and 'DeepSpeed clips only by the 2-norm' in output

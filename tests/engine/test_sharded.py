"""DDP and FSDP in two real processes: they train as one process does with twice the batch, and end
where they would have ended when they are killed and resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from sharded import Mean

from swin_backbone import SwinTransformer
from swin_backbone.engine.fsdp import is_swin_block, wrap_swin_blocks
from swin_backbone.layers import SwinBlock, SwinBlockV2
from swin_backbone.weights import read_checkpoint

PROGRAM = Path(__file__).with_name('sharded.py')
FULL_PRECISION = {'strategy.model_wrapper.mixed_precision': None}
SHARDS = {'strategy.state_dict_cfg': 'local'}
SMALL = dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), window_size=4)
# Runs that are disturbed, with random draws in them.
DROPS = ('--backbone', json.dumps(dict(drop_path_rate=0.3, drop_rate=0.1)))
KINDS = {
    'ddp': (('--runtime', 'ddp', *DROPS), {}),
    'full': (('--runtime', 'fsdp', *DROPS), FULL_PRECISION),
    'shards': (('--runtime', 'fsdp', *DROPS), {**FULL_PRECISION, **SHARDS}),
}

pytestmark = pytest.mark.skipif(get_device() != 'cpu', reason='gloo, on CPUs')


@pytest.fixture(scope='module')
def run(fresh) -> Callable[..., str]:
    """Trains in a folder, in real processes; returns what they print."""

    def run(
        folder: Path, *words: str, processes: int = 2, fails: bool = False, **options: object
    ) -> str:
        if processes > 1:
            words = ('--launcher', 'pytorch', '--batch', str(4 // processes), *words)
        result = fresh.run(
            *(PROGRAM, folder, *words, '--options', json.dumps(options)),
            env=dict(GLOO_SOCKET_IFNAME='lo'),
            merged=True,
            processes=processes,
        )
        assert (result.returncode != 0) == fails, result.stdout[-6000:]
        return result.stdout

    return run


def assert_close(folder: Path, single: Path) -> None:
    """Two processes have the weights of one, and clipped gradients of the same norm."""
    expected = torch.load(single / 'final0.pth')
    first, second = (torch.load(folder / f'final{rank}.pth') for rank in (0, 1))
    assert {'head.weight', 'backbone.stages.1.blocks.1.attn.w_msa.qkv.weight'} <= set(first)
    for key, weight in first.items():
        assert torch.equal(weight, second[key])
        torch.testing.assert_close(weight, expected[key].detach(), rtol=1e-5, atol=2e-6)
    assert norms(folder) == pytest.approx(norms(single), rel=1e-4)


def norms(folder: Path) -> list[float]:
    """The norms of the gradients, of which at least one was clipped, of all runs in a folder."""
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    found = [line['grad_norm'] for line in lines]
    assert len(found) == 4 and max(found) > 0.5
    return found


@pytest.fixture(scope='module')
def single(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('single')
    run(folder, processes=1)
    return folder


@pytest.fixture(scope='module')
def undisturbed(run, tmp_path_factory):
    """Where an undisturbed run of a kind ends, for all tests of this kind."""
    ends = {}

    def end(kind: str) -> Path:
        if kind not in ends:
            ends[kind] = tmp_path_factory.mktemp(kind)
            run(ends[kind], *KINDS[kind][0], **KINDS[kind][1])
        return ends[kind]

    return end


def assert_ends_as(expected: Path, folder: Path) -> None:
    for rank in (0, 1):
        first, second = (torch.load(place / f'final{rank}.pth') for place in (expected, folder))
        assert first.keys() == second.keys()
        assert all(torch.equal(weight, second[key]) for key, weight in first.items())


def test_shards_killed_while_saving(run, tmp_path, undisturbed):
    """One process dies half-way through its shard, when the other's is there already."""
    words, options = KINDS['shards']
    run(tmp_path, *words, '--die-in-save', '2', '--dying-process', '1', fails=True, **options)
    assert sorted(path.name for path in tmp_path.glob('iter_*')) == [
        'iter_2.pth',
        'iter_4.pth.part',
    ]
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    assert 'resumed epoch: 0, iter: 2' in run(tmp_path, *words, **options)
    assert_ends_as(undisturbed('shards'), tmp_path)
    assert not list(tmp_path.glob('*.part'))


def test_shards_load_into_the_plain_model(undisturbed):
    folder = undisturbed('shards') / 'iter_4.pth'
    assert len(list(folder.iterdir())) == 2
    whole = read_checkpoint(folder)
    saved = torch.load(folder.parent / 'final0.pth')
    assert all(torch.equal(whole['state_dict'][key], weight) for key, weight in saved.items())
    model = Mean(**SMALL, out_indices=(0, 1))
    model.load_state_dict(whole['state_dict'])
    init = dict(type='Pretrained', checkpoint=str(folder))
    backbone = SwinTransformer(**SMALL, out_indices=(0, 1), init_cfg=init)
    backbone.init_weights()
    for key, weight in backbone.state_dict().items():
        assert torch.equal(weight, model.backbone.state_dict()[key])
    momentum = whole['optimizer']['state']['head.weight']['momentum_buffer']
    assert momentum.shape == model.head.weight.shape


def test_blocks_are_wrapped_and_recomputed(undisturbed):
    seen = json.loads((undisturbed('shards') / 'seen0.json').read_text())
    assert seen['units'] == ['Mean', *['SwinBlock'] * 4]
    assert seen['calls'] == 4 * 4 * 2  # iterations, blocks, forwards twice
    assert seen['types'] == ['torch.float32']


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ddp', 'full', 'shards'])
def test_killed_in_an_iteration(run, tmp_path, undisturbed, kind):
    words, options = KINDS[kind]
    run(tmp_path, *words, '--die-in-iteration', '3', fails=True, **options)
    assert 'resumed epoch: 0, iter: 2' in run(tmp_path, *words, **options)
    assert_ends_as(undisturbed(kind), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ddp', 'full'])
def test_killed_while_saving(run, tmp_path, undisturbed, kind):
    words, options = KINDS[kind]
    run(tmp_path, *words, '--die-in-save', '2', fails=True, **options)
    assert sorted(path.name for path in tmp_path.glob('iter_*')) == [
        'iter_2.pth',
        'iter_4.pth.part',
    ]
    assert 'resumed epoch: 0, iter: 2' in run(tmp_path, *words, **options)
    assert_ends_as(undisturbed(kind), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('first, then', [('full', 'shards'), ('shards', 'full')])
def test_one_kind_resumes_the_other(run, tmp_path, undisturbed, first, then):
    run(tmp_path, *KINDS[first][0], '--die-in-iteration', '3', fails=True, **KINDS[first][1])
    run(tmp_path, *KINDS[then][0], **KINDS[then][1])
    assert_ends_as(undisturbed(first), tmp_path)


@pytest.mark.slow
def test_shards_of_two_processes_resume_in_four(run, tmp_path, single):
    words = ('--runtime', 'fsdp')
    run(tmp_path, *words, '--iterations', '2', **FULL_PRECISION, **SHARDS)
    output = run(tmp_path, *words, processes=4, **FULL_PRECISION, **SHARDS)
    assert 'resumed epoch: 0, iter: 2' in output
    assert_close(tmp_path, single)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, SHARDS], ids=['full', 'shards'])
def test_fsdp_trains_as_one_process(run, tmp_path, single, options):
    run(tmp_path, '--runtime', 'fsdp', **FULL_PRECISION, **options)
    assert_close(tmp_path, single)
    saved = read_checkpoint(tmp_path / 'iter_4.pth')['state_dict']
    Mean(**SMALL, out_indices=(0, 1)).load_state_dict(saved)


@pytest.mark.slow
def test_ddp_trains_as_one_process(run, tmp_path, single):
    run(tmp_path, '--runtime', 'ddp')
    assert_close(tmp_path, single)


@pytest.mark.slow
@pytest.mark.parametrize(
    'backbone',
    [
        dict(frozen_stages=0),
        dict(frozen_stages=1, use_abs_pos_embed=True, pretrain_img_size=32),
        dict(drop_path_rate=0.9, drop_rate=0.1),
        dict(with_cp=True),
        dict(with_cp='stage', drop_path_rate=0.5),
        dict(out_indices=[0]),
    ],
    ids=str,
)
def test_no_parameter_is_unused(run, tmp_path, backbone):
    """With find_unused_parameters=False, DDP stops in the second iteration if one is."""
    run(tmp_path, '--runtime', 'ddp', '--backbone', json.dumps(backbone), '--iterations', '3')


@pytest.mark.slow
def test_fsdp_in_bfloat16(run, tmp_path):
    """The weights are of float32, and computing, with them and gradients' sums, of bfloat16."""
    run(tmp_path, '--runtime', 'fsdp')
    assert all(w.dtype == torch.float32 for w in torch.load(tmp_path / 'final0.pth').values())
    seen = json.loads((tmp_path / 'seen0.json').read_text())
    assert seen['types'] == ['torch.bfloat16'] and seen['calls'] == 4 * 4 * 2


@pytest.mark.slow
def test_without_activation_checkpointing(run, tmp_path, undisturbed):
    options = {'strategy.activation_checkpointing': None, **FULL_PRECISION, **SHARDS}
    run(tmp_path, *KINDS['shards'][0], **options)
    assert json.loads((tmp_path / 'seen0.json').read_text())['calls'] == 4 * 4
    assert_ends_as(undisturbed('shards'), tmp_path)


@pytest.mark.parametrize('kind', [SwinBlock, SwinBlockV2])
def test_blocks_are_what_is_wrapped(kind):
    block = kind(8, 2, 16, window_size=2)
    assert is_swin_block(block) and not is_swin_block(block.attn)
    assert wrap_swin_blocks(block.attn, recurse=True, nonwrapped_numel=0)
    assert wrap_swin_blocks(block, recurse=False, nonwrapped_numel=0)
    assert not wrap_swin_blocks(block.attn, recurse=False, nonwrapped_numel=10**9)


@pytest.mark.parametrize('runtime', ['ddp', 'fsdp', 'deepspeed_zero2', 'deepspeed_zero3'])
def test_a_runtime_goes_with_a_recipe(tmp_path, runtime):
    configs = PROGRAM.parents[2] / 'configs'
    file = tmp_path / 'config.py'
    recipe, added = configs / 'cascade_swin_l_coco.py', configs / f'_base_/runtime/{runtime}.py'
    file.write_text(f'_base_ = [{str(recipe)!r}, {str(added)!r}]')
    cfg = Config.fromfile(file)
    assert cfg.runner_type.endswith('ResumingRunner')
    assert ('strategy' in cfg) == (runtime != 'ddp')

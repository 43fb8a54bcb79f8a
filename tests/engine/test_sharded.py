"""DDP and FSDP in two real processes train as one process does with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from sharded import Mean

from swin_backbone import CheckpointError
from swin_backbone.engine.checkpoints import last_whole
from swin_backbone.engine.fsdp import is_swin_block, wrap_swin_blocks
from swin_backbone.layers import SwinBlock, SwinBlockV2

PROGRAM = Path(__file__).with_name('sharded.py')
FULL_PRECISION = {'strategy.model_wrapper.mixed_precision': None}
SHARDS = {'strategy.state_dict_cfg': 'local'}

pytestmark = pytest.mark.skipif(get_device() != 'cpu', reason='gloo, on CPUs')


def run(folder: Path, *words: str, processes: int = 2, **options) -> str:
    launch = []
    if processes > 1:
        launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
        words = ('--launcher', 'pytorch', '--batch', '2', *words)
    result = subprocess.run(
        [sys.executable, *launch, PROGRAM, folder, *words, '--options', json.dumps(options)],
        env=dict(os.environ, GLOO_SOCKET_IFNAME='lo', OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


def assert_close(folder: Path, single: Path) -> None:
    expected = torch.load(single / 'final0.pth')
    first, second = (torch.load(folder / f'final{rank}.pth') for rank in (0, 1))
    assert {'head.weight', 'backbone.stages.1.blocks.1.attn.w_msa.qkv.weight'} <= set(first)
    for key, weight in first.items():
        assert torch.equal(weight, second[key])
        torch.testing.assert_close(weight, expected[key].detach(), rtol=1e-5, atol=2e-6)


@pytest.fixture(scope='module')
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('single')
    run(folder, processes=1)
    return folder


def test_fsdp_trains_as_one_process_and_saves_for_the_plain_model(tmp_path, single):
    run(tmp_path, '--runtime', 'fsdp', **FULL_PRECISION)
    assert_close(tmp_path, single)
    saved = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['state_dict']
    small = dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), window_size=4)
    Mean(**small, out_indices=(0, 1)).load_state_dict(saved)


@pytest.mark.slow
def test_ddp_trains_as_one_process(tmp_path, single):
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
def test_no_parameter_is_unused(tmp_path, backbone):
    """With find_unused_parameters=False, DDP stops in the second iteration if one is."""
    run(tmp_path, '--runtime', 'ddp', '--backbone', json.dumps(backbone), '--iterations', '3')


@pytest.mark.slow
def test_fsdp_resumes(tmp_path, single):
    for iterations in ('2', '4'):
        output = run(tmp_path, '--runtime', 'fsdp', '--iterations', iterations, **FULL_PRECISION)
    assert 'resumed epoch: 0, iter: 2' in output
    assert_close(tmp_path, single)


@pytest.mark.slow
def test_shards_train_but_are_refused_when_resumed(tmp_path, single):
    """torch's safe loading takes no ShardedTensor: an error, and not a run that starts anew."""
    run(tmp_path, '--runtime', 'fsdp', **FULL_PRECISION, **SHARDS)
    assert_close(tmp_path, single)
    assert len(list((tmp_path / 'iter_4.pth').glob('rank*.pth'))) == 2
    with pytest.raises(CheckpointError, match='is whole, but cannot be read'):
        last_whole(tmp_path)


@pytest.mark.slow
def test_fsdp_in_bfloat16(tmp_path):
    run(tmp_path, '--runtime', 'fsdp')
    assert all(w.dtype == torch.float32 for w in torch.load(tmp_path / 'final0.pth').values())


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

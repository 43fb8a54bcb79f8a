"""The GPU benchmark of attention, as far as it goes without one: its checks and its report."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'gpu_attention.py'


@pytest.fixture
def script(monkeypatch):
    """The script's names. What it sets in the environment is taken back."""
    pytest.importorskip('triton')
    monkeypatch.setitem(os.environ, 'TRITON_INTERPRET', os.environ.get('TRITON_INTERPRET', ''))
    monkeypatch.setattr(sys, 'path', list(sys.path))
    return runpy.run_path(str(SCRIPT))


def test_checks_without_a_gpu_and_without_the_frameworks(tmp_path):
    pytest.importorskip('triton')
    code = (
        'import sys, runpy; script, *sys.argv[1:] = sys.argv[1:];'
        'sys.modules |= dict(mmengine=None, mmcv=None); runpy.run_path(script, run_name="__main__")'
    )
    command = [sys.executable, '-c', code, str(SCRIPT), '--out', str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    report = json.loads((tmp_path / 'gpu_attention.json').read_text())
    assert {row['backend'] for row in report['checks']} == {'triton', 'sdpa on windows'}
    assert 'checks against float64 passed' in (tmp_path / 'gpu_attention.md').read_text()


def test_stages_are_those_of_the_models(script):
    stages = script['stages']([7])
    assert len(stages) == 2 * 3 * 4
    last = next(s for s in stages if s['model'] == 'B' and s['stage'] == 4)
    assert (last['map'], last['C'], last['heads']) == ([8, 25, 42], 1024, 32)


def test_floor_counts_each_tensor_once(script):
    """Two bytes a channel of the maps, four of the parameters."""
    import torch

    tensors = script['draw'](2, 5, 6, 32, 2, 4, torch.bfloat16)
    tokens, parameters = 2 * 5 * 6, 4 * (2 * 16 * 16 + 96)
    assert script['floor_bytes'](tensors, backward=False) == 2 * tokens * 4 * 32 + parameters
    assert script['floor_bytes'](tensors, backward=True) == (
        2 * tokens * (4 + 7) * 32 + 3 * parameters
    )


def test_report_has_a_column_a_backend(script):
    times = {
        name: dict(median=2.0, least=1.5, most=2.5, rounds=3, peak_bytes=2**20)
        for name in script['BACKENDS']
    }
    row = script['stages']([7])[0] | dict(run='forward', floor_ms=1.0, times=times)
    report = dict(
        machine={'device': 'none'},
        checks=[dict(errors=dict(out=1e-6))],
        bandwidth=1e12,
        rows=[row],
    )
    head, rule, body = script['markdown'](report).splitlines()[-3:]
    assert head.count('|') == rule.count('|') == body.count('|')
    assert '2.000 ± 0.500' in body and '50%' in body

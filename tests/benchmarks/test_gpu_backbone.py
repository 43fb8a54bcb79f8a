"""The GPU benchmark of the backbone without a GPU, at sizes that measure nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'gpu_backbone.py'
# A peer that is absent, one that fails, and no compiler: what is left must be measured.
RUN = """
import runpy, sys, torch
script, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, script.rpartition('/')[0])
sys.modules['transformers'] = None
import peers
class Broken(torch.nn.Module):
    def forward(self, x):
        raise ValueError('no such luck')
build = peers.build
peers.build = lambda name, arch: Broken() if name == 'mmseg' else build(name, arch)
runpy.run_path(script, run_name='__main__')
"""


def test_whole_run(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-c', RUN, str(SCRIPT), '--out', str(tmp_path)]
    sizes = ['--device', 'cpu', '--tiny', '--models', 'tiny', '--rounds', '1']
    done = subprocess.run(
        [*command, *sizes, '--peers', 'ours', 'mmdet', 'mmseg', 'transformers'],
        env={**os.environ, 'TORCHDYNAMO_DISABLE': '1', 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / 'gpu_backbone.json').read_text())
    assert list(report['missing']) == ['transformers']
    assert {(row['backend'], row['dtype']) for row in report['checks']} == {
        (backend, dtype) for backend in ('sdpa', 'cpu') for dtype in ('float32', 'bfloat16')
    }
    training, inference = report['cases']
    names = {'ours', 'ours, compiled', 'mmdet', 'mmdet, compiled'}
    assert set(training['rows']) == names
    assert set(inference['rows']) == names | {'ours, CUDA graphs'}
    ours, mmdet = training['rows']['ours'], training['rows']['mmdet']
    assert ours['mmdet eager / this'] == mmdet['median, s'] / ours['median, s']
    assert ours['floor / median'] == training['facts']['floor, s'] / ours['median, s']
    text = (tmp_path / 'gpu_backbone.md').read_text()
    assert 'Left out: transformers' in text and 'mmseg failed: ValueError: no such luck' in text
    assert (tmp_path / 'gpu_backbone.png').stat().st_size > 1000


def test_needs_a_gpu_unless_told_otherwise(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), '--out', str(tmp_path)],
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and '--device cpu --tiny' in done.stderr
    assert not list(tmp_path.iterdir())

"""The GPU benchmark of a block without a GPU: its checks, all that it times, and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'gpu_block.py'
# Everything is called once, on a little map; without the frameworks.
RUN = """
import sys
sys.modules |= dict(mmengine=None, mmcv=None)
sys.path.insert(0, sys.argv[1])
import gpu_block
class Clock:
    def interleaved(self, functions, rounds=1):
        for function in functions.values():
            function()
        return {name: dict(median=2.0, least=1.5, most=2.5) for name in functions}
stage = dict(model='T', image=[1, 12, 20], stage=1, window=7, map=[1, 3, 5], C=32, heads=1)
gpu_block.attention.stages = lambda windows: [stage, stage | dict(model='L')]
gpu_block.attention.peak_bytes = lambda function: 3 * 2**20
gpu_block.attention.ON_GPU, gpu_block.attention.machine = True, lambda: dict(device='none')
gpu_block.attention.Clock, gpu_block.check = Clock, lambda: [1, 2]
gpu_block.attention.copy_bandwidth = lambda clock: 1e12
sys.argv[1:] = ['--out', sys.argv[2], '--models', 'T', '--tune']
gpu_block.main()
"""


def test_checks(tmp_path):
    pytest.importorskip('triton')
    command = [sys.executable, '-W', 'ignore', str(SCRIPT), '--out', str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    report = json.loads((tmp_path / 'gpu_block.json').read_text())
    assert {row['what'].split('.')[2] for row in report['checks']} == {
        'block',
        'merging',
        'post_norm',
    }
    assert '9 checks against float64 passed' in (tmp_path / 'gpu_block.md').read_text()


def test_whole_run(tmp_path):
    pytest.importorskip('triton')
    command = [sys.executable, '-W', 'ignore', '-c', RUN, str(SCRIPT.parent), str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    report = json.loads((tmp_path / 'gpu_block.json').read_text())
    assert len(report['rows']) == 11 + 3 and {row['model'] for row in report['rows']} == {'T'}
    assert len(report['tuning']) == 4 * 4 * 11
    *_, head, rule, first = (tmp_path / 'gpu_block.md').read_text().splitlines()[:-13]
    assert head.count('|') == rule.count('|') == first.count('|')
    # Six bytes an element at 1 TB/s, of which a norm may take 2 ms: next to nothing.
    assert '| norm | 2.000 ± 0.500 | 0.000 | 0% |' in first

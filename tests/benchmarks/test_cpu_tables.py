"""The CPU tables, at a size that measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'
APART = Path(sys.prefix, 'peers')


def test_table(tmp_path):
    """The two differ in what is timed alone."""
    if not APART.is_dir():
        pytest.skip('torchvision is not there (requirements/set_up.sh)')
    name, others = 'cpu_training', ['torchvision']
    command = [sys.executable, '-W', 'ignore', str(BENCHMARKS / f'{name}.py'), '--out', tmp_path]
    sizes = ['--shape', '1', '3', '32', '64', '--rounds', '1', '--threads', '1']
    done = subprocess.run(
        [*command, *sizes, '--peers', 'ours', *others], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / f'{name}.json').read_text())
    rows, facts = record['rows'], record['facts']
    assert set(rows) == {'ours', *others, 'best peer / ours'}
    assert all(rows[peer]['peak above idle, MB'] > 0 for peer in ('ours', *others))
    best = min(rows[peer]['median, s'] for peer in others)
    assert rows['best peer / ours']['median, s'] == best / rows['ours']['median, s']
    assert rows['ours']['floor / median'] == facts['floor, s'] / rows['ours']['median, s']
    assert (tmp_path / f'{name}.md').read_text() in done.stdout
    assert (tmp_path / f'{name}.png').stat().st_size > 1000


def test_floors(monkeypatch):
    """Twice the batch is twice the work, and a training step three times inference."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from floors import floor

    one, two = (floor('tiny', (B, 3, 224, 224), training=False) for B in (1, 2))
    # The paper's 4.5 G multiplications and additions (table 1).
    assert two.flops == 2 * one.flops and 2 * 4.3e9 < one.flops < 2 * 4.6e9
    parameters = 4 * 27.5e6
    assert one.bytes > parameters and two.bytes - one.bytes == pytest.approx(
        one.bytes - parameters, rel=0.02
    )
    step = floor('tiny', (1, 3, 224, 224), training=True)
    assert 2.9 < step.flops / one.flops < 3.2
    halves = floor('tiny', (1, 3, 224, 224), training=True, element_size=2)
    assert halves.flops == step.flops and halves.bytes < step.bytes

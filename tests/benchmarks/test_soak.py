"""The soak notices what grows, and trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import soak  # noqa: E402


def samples(**slopes: float) -> list[dict[str, float]]:
    """2000 iterations, with a column growing by so much in each."""
    return [{column: 1000 + slopes.get(column.split(',')[0], 0) * i for column in soak.COLUMNS}
            for i in range(2000)]  # fmt: skip


@pytest.mark.parametrize('slope', [0, 0.02, -0.02])
def test_flat_memory(slope):
    assert soak.faults(soak.quarters(samples(resident=slope, allocated=slope))) == []


@pytest.mark.parametrize(
    ('column', 'slope'),
    [
        ('resident', 0.1),
        ('resident', -0.05),
        ('allocated', 0.1),
        ('tensors', 0.01),
        ('graphs', 0.1),
    ],
)
def test_growth(column, slope):
    (fault,) = soak.faults(soak.quarters(samples(**{column: slope})))
    assert fault.startswith(column)


@pytest.mark.slow
def test_it_trains(tmp_path, monkeypatch, capsys):
    options = ['--iterations', '8', '--batch', '1', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['soak.py', *options])
    with pytest.raises(SystemExit):  # eight iterations are not flat
        soak.main()
    record = json.loads((tmp_path / 'soak.json').read_text())
    assert list(record['rows']) == ['1–2', '3–4', '5–6', '7–8']
    assert record['sizes'] > 1
    assert (tmp_path / 'soak.png').stat().st_size > 1000
    assert 'sizes of batches' in capsys.readouterr().out

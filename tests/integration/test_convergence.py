"""The short form of benchmarks/convergence.py: the detector's first steps on every CPU backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'convergence.py'
ITERATIONS = 8


def test_losses_stay_together(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', str(SCRIPT), '--out', str(tmp_path)),
            *('--iterations', str(ITERATIONS), '--batch-size', '2'),
        ],
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    curves = json.loads((tmp_path / 'convergence.json').read_text())['curves']
    assert list(curves) == ['reference', 'sdpa', 'auto']
    for curve in curves.values():
        assert len(set(curve)) == ITERATIONS  # it does train
        for i, (ours, exact) in enumerate(zip(curve, curves['reference'], strict=True)):
            assert abs(ours - exact) <= (1e-4 if i < 2 else 0.1) * exact
    # They are not one and the same path.
    assert curves['reference'] != curves['sdpa'] != curves['auto'] != curves['reference']

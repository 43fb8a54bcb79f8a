"""The table of mmcv's operators, at sizes that show nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'mmcv_operators.py'


def test_table(tmp_path):
    command = [sys.executable, '-W', 'ignore', str(SCRIPT), '--quick', '--out', str(tmp_path)]
    done = subprocess.run([*command, '--threads', '1'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / 'mmcv_operators.json').read_text())['rows']
    ours = {name.removesuffix(': ours'): row for name, row in rows.items() if name.endswith('ours')}
    for operator in ('deform_conv2d', 'sigmoid_focal_loss', 'ms_deform_attn', 'carafe'):
        assert any(name.startswith(operator) for name in ours)
    for name, row in rows.items():
        mine = ours[name.partition(': ')[0]]
        assert row['median / ours'] == row['median, s'] / mine['median, s']
    assert (tmp_path / 'mmcv_operators.md').read_text() in done.stdout

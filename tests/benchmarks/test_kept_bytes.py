"""What a GPU must keep for a backward pass: at most half of what mmdet's module keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'kept_bytes.py'


@pytest.mark.parametrize(
    'arch', ['tiny', *(pytest.param(arch, marks=pytest.mark.slow) for arch in ('base', 'large'))]
)
def test_at_most_half(tmp_path, arch):
    options = ['--models', arch, '--shape', '1', '3', '224', '224', '--out', str(tmp_path)]
    subprocess.run([sys.executable, '-W', 'ignore', SCRIPT, *options], check=True, timeout=300)
    (row,) = json.loads((tmp_path / 'kept_bytes.json').read_text()).values()
    assert 0.2 < row['ours / mmdet'] < 0.5
    assert f'Swin-{arch[0].upper()}' in (tmp_path / 'kept_bytes.md').read_text()

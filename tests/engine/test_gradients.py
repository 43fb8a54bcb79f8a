"""Gradients of two processes under DDP are those of one with the same images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.device import get_device

PROGRAM = Path(__file__).with_name('gradients.py')

pytestmark = pytest.mark.skipif(get_device() != 'cpu', reason='gloo, on CPUs')


def test_two_processes_have_the_gradients_of_one():
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    result = subprocess.run(
        [sys.executable, *launch, PROGRAM],
        env=dict(os.environ, GLOO_SOCKET_IFNAME='lo', OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-6000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert len(errors) == 7
    for case, error in errors.items():
        assert error < (5e-5 if 'float32' in case else 1e-10), errors

"""Gradients of two processes under DDP are those of one with the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.device import get_device

PROGRAM = Path(__file__).with_name('gradients.py')

pytestmark = pytest.mark.skipif(get_device() != 'cpu', reason='gloo, on CPUs')


def test_two_processes_have_the_gradients_of_one(fresh):
    result = fresh.run(PROGRAM, processes=2, env=dict(GLOO_SOCKET_IFNAME='lo'))
    assert result.returncode == 0, result.stderr[-6000:]
    errors = json.loads(result.stdout.splitlines()[-1])
    assert len(errors) == 7
    for case, error in errors.items():
        assert error < (5e-5 if 'float32' in case else 1e-10), errors

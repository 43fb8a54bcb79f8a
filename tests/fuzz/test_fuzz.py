"""A short form of ``benchmarks/fuzz.py``: the same inputs in every run."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from harness import fuzz


@pytest.fixture(autouse=True)
def _one_thread():
    """More only wait for each other at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ('name', 'count', 'accepted'),
    [
        ('configs', 300, 0.2),
        ('checkpoints', 600, 0.05),
        ('files', 500, 0.1),
        ('commands', 120, 0.1),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_every_outcome_is_a_documented_one(name, count, accepted):
    report = fuzz(import_module(f'hostile_{name}').TARGET, count, 0)
    assert not report.bugs
    outcomes = report.outcomes
    assert sum(outcomes.values()) == count
    # Else nothing but the first check of all would be seen to work.
    assert outcomes['accepted'] + outcomes['exit code 0'] > accepted * count
    assert len(outcomes) > 1

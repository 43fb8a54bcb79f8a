"""The trials of kernels: how often they run, and what is remembered."""

from __future__ import annotations

import pytest
import torch

from swin_backbone.ops.trial import Comparison, Setting, Trial

CPU = torch.device('cpu')
HALF = torch.bfloat16


def times(x, weight):
    return x * weight


def product(draw, size):
    return Comparison([draw.map(size), draw.parameter(size)], times, times)


def test_each_device_and_size_is_tried_once(monkeypatch):
    trial, tried = Trial(product, 'does without'), []
    monkeypatch.setattr(trial, 'error', lambda setting, size: tried.append(setting.device) or 0.0)
    for index in (0, 1, 0, 1):
        assert trial.fault(Setting(torch.device('cuda', index), HALF), 7) is None
    assert [device.index for device in tried] == [0, 1]


def test_inputs_have_the_dtypes_of_the_call():
    seen = []

    def inputs(draw, size):
        found = product(draw, size)
        seen.append([t.dtype for t in found.tensors])
        return found

    for setting in (Setting(CPU, HALF), Setting(CPU, HALF, HALF), Setting(CPU, torch.float32)):
        assert Trial(inputs, 'does without').fault(setting, 5) is None
    assert seen == [[HALF, HALF], [HALF, torch.float32], [torch.float32] * 2]
    with torch.autocast('cpu', HALF):
        assert Setting.of(torch.ones(1)) == Setting(CPU, torch.float32, HALF)


def test_a_wrong_result_is_remembered_and_warned_of_once(recwarn):
    def wrong(draw, size):
        return product(draw, size)._replace(ours=lambda x, w: 1.1 * x * w)

    trial = Trial(wrong, 'does without')
    with pytest.warns(UserWarning, match='does without: its kernels are wrong'):
        assert 'wrong' in trial.fault(Setting(CPU, torch.float32), 5)
    assert 'wrong' in trial.fault(Setting(CPU, torch.float32), 5)
    assert not recwarn.list


def test_a_lack_of_memory_is_not_remembered(recwarn):
    memory = [False, True]

    def inputs(draw, size):
        if not memory.pop(0):
            raise torch.OutOfMemoryError('tried to allocate 1 MiB')
        return product(draw, size)

    trial = Trial(inputs, 'does without')
    assert '1 MiB' in trial.fault(Setting(CPU, torch.float32), 5)
    assert trial.fault(Setting(CPU, torch.float32), 5) is None
    assert not recwarn.list

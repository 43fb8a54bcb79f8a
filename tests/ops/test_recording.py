"""Every observer of the computation is detected."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone.ops.recording import value_only, why_unfused


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def hook_on_all_modules():
    handle = register_module_forward_hook(lambda *args: None)
    yield
    handle.remove()


CONTEXTS = {
    'counter': lambda: FlopCounterMode(display=False),
    'function mode': FunctionMode,
    'hooks on all modules': hook_on_all_modules,
}


@pytest.mark.parametrize('reason', CONTEXTS)
def test_modes_and_hooks(reason):
    assert why_unfused() is None
    with CONTEXTS[reason]():
        assert reason in why_unfused()
    assert why_unfused() is None


@pytest.mark.parametrize(
    'reason, apply',
    [
        ('transformation', torch.func.vmap),
        ('tracer', lambda function: torch.jit.trace(function, torch.ones(2), check_trace=False)),
    ],
)
def test_transforms_and_tracers(reason, apply):
    seen = []

    def function(x):
        seen.append((why_unfused(), value_only()))
        return x + 1

    with torch.no_grad():
        apply(function)(torch.ones(2))
    assert reason in seen[0][0] and not seen[0][1]


def test_replaced_functions(monkeypatch):
    monkeypatch.setattr(F, 'linear', lambda *args: None)
    assert why_unfused() == 'torch.nn.functional.linear is replaced'


def test_a_value_is_enough_only_without_gradients_and_observers():
    assert not value_only()
    with torch.no_grad():
        assert value_only()
        with FlopCounterMode(display=False):
            assert not value_only()

"""Detects who observes the computation: compilers, tracers, transforms, modes, hooks, replacements.

A fused path skips modules and functions. It may run only where no observer can notice that. Every
such path asks the functions of this module.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.module_tracker import ModuleTracker

from ..errors import ArgumentError

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_GLOBAL_HOOKS = tuple(f'_global{name}' for name in _HOOKS)
# Available since torch 2.7; exporting requires a newer version.
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def compiling() -> bool:
    """Whether ``torch.compile`` or ``torch.export`` records the computation."""
    return torch.compiler.is_compiling()


def tracing() -> bool:
    """Whether ``torch.jit.trace``, or an exporter that uses it, records the computation."""
    return torch.jit.is_tracing()


def exporting() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` records a graph, to be used for all sizes."""
    return _is_exporting() or tracing()


def recording() -> bool:
    """Whether a compiler, exporter or tracer records a graph, which may be used for other sizes."""
    return compiling() or tracing()


def refuse_symbolic(x: object) -> None:
    """Raises if ``x`` is a proxy of ``torch.fx.symbolic_trace``, which has no sizes.

    Raises:
        ArgumentError: ``x`` is a proxy. The message names alternatives.
    """
    if isinstance(x, Proxy):
        raise ArgumentError(
            'torch.fx.symbolic_trace, and with it create_feature_extractor of torchvision, cannot '
            'trace this backbone: its windows depend on the size of the input. out_indices gives '
            'the maps of stages, forward hooks give those of any module, and torch.export.export '
            'records a graph; docs/migrate.md, "Features from within", has examples'
        )


def transformed() -> bool:
    """Whether a functorch transform is active. It supports only PyTorch's own operators."""
    return not compiling() and torch._C._are_functorch_transforms_active()


def counted() -> bool:
    """Whether a dispatch mode, such as a FLOP counter, sees every operator."""
    return _get_current_dispatch_mode() is not None


def capturing() -> bool:
    """Whether a CUDA graph is captured on the current stream."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def value_only() -> bool:
    """Whether only the value of a result is needed, so that a cached tensor can replace it.

    False if gradients are enabled or if a compiler, tracer, transform, dispatch mode or CUDA graph
    records the computation.
    """
    return not (torch.is_grad_enabled() or recording() or transformed() or counted() or capturing())


def intercepted() -> bool:
    """Whether a function mode sees every function. One that sets a default device is ignored."""
    modes = _get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def hooks_on_all_modules() -> bool:
    """Whether global module hooks are registered. Hooks that only track names are ignored."""
    return torch_module._has_any_global_hook() and any(
        not isinstance(getattr(hook, '__self__', None), ModuleTracker)
        for name in _GLOBAL_HOOKS
        for hook in getattr(torch_module, name).values()
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has a hook, or a ``forward`` in its instance dictionary."""
    return 'forward' in module.__dict__ or bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_hooked_within(module: nn.Module) -> bool:
    """Whether :func:`is_hooked` is true of a module or of any of its submodules."""
    return is_hooked(module) or any(
        is_hooked_within(child) for child in module._modules.values() if child is not None
    )


class Definitions:
    """The original functions and methods of some owners, to detect that one was replaced.

    Ports to other accelerators and instrumentation replace ``nn.Linear.forward`` or ``F.linear``
    for the whole process. A replacement made before this object is created is detected too: it is a
    Python function that was not defined in the module of its owner.

    Args:
        *places: Pairs of an owner, which is a class or a module, and the name of its function.
    """

    def __init__(self, *places: tuple[Any, str]) -> None:
        self._places = [(owner, name, _as_defined(owner, name)) for owner, name in places]

    def replaced(self) -> str | None:
        """The name of a replaced function, such as ``'Linear.forward'``; None if there is none."""
        for owner, name, original in self._places:
            if getattr(owner, name, None) is not original:
                return f'{owner.__name__}.{name}'
        return None

    @staticmethod
    def is_as_defined(module: nn.Module, owner: type[nn.Module]) -> bool:
        """Whether a module runs the original ``owner.forward`` and has no hooks."""
        kind = type(module)
        return (
            isinstance(module, owner)
            and kind.forward is owner.forward
            and kind.__call__ is nn.Module.__call__
            and not is_hooked(module)
        )


def _as_defined(owner: Any, name: str) -> Callable | None:
    """The function of that name; None if it was not defined in the module of its owner."""
    function = getattr(owner, name)
    if not isinstance(function, FunctionType):  # a built-in, or another callable that replaces it
        return function if inspect.isroutine(function) else None
    if isinstance(owner, type):
        owner = sys.modules[next(c for c in owner.__mro__ if name in vars(c)).__module__]
    return function if function.__globals__ is vars(owner) else None


_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.GELU, nn.Softmax)
_KINDS += (nn.ReLU, nn.Sequential, nn.Identity, nn.Unfold)
_FUNCTIONS = ('linear', 'layer_norm', 'dropout', 'gelu', 'softmax', 'relu', 'unfold', 'pad')
# What the unfused modules of this package call.
TORCH = Definitions(
    *((kind, 'forward') for kind in _KINDS),
    *((F, name) for name in _FUNCTIONS),
    *((torch.Tensor, name) for name in ('__matmul__', '__add__', '__mul__', 'softmax')),
    *((torch, name) for name in ('layer_norm', 'roll')),
)
# Exporters replace these themselves, and they use function modes.
CALLS = Definitions(*((kind, name) for kind in _KINDS for name in ('__call__', '_call_impl')))


# A compiled graph keeps the result of the call during compilation.
@torch.compiler.assume_constant_result
def observed() -> str | None:
    """Why no module may be skipped, whichever it is; None if some may be skipped."""
    if hooks_on_all_modules():
        return 'there are hooks on all modules'
    if not recording() and intercepted():
        return 'a function mode is active'
    name = TORCH.replaced() or (None if recording() else CALLS.replaced())
    return None if name is None else f'{name} is replaced'


def why_unfused() -> str | None:
    """Why a fused path must not replace modules or functions; None if one may.

    Stricter than :func:`observed`: a recorded graph, a transform and a dispatch mode need PyTorch's
    own operators, and a module tracker needs every module to be called.
    """
    if recording():
        return 'a compiler or tracer is active'
    if transformed() or counted():
        return 'a transformation or counter is active'
    if torch_module._has_any_global_hook():
        return 'there are hooks on all modules'
    return observed()

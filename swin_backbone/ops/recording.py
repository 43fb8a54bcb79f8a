"""Who is watching: compilers, tracers, transformations, hooks, and replaced functions.

A faster path may skip modules or functions only where nobody can tell. This module answers that
question for every such path.
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


def recording() -> bool:
    """Whether a compiler, exporter or tracer records a graph of what runs, for other sizes too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def refuse_symbolic(x: object) -> None:
    """Raises where ``torch.fx`` traces by proxies, which have no sizes.

    Raises:
        ArgumentError: ``x`` is such a proxy; the message says what to do instead.
    """
    if isinstance(x, Proxy):
        raise ArgumentError(
            'torch.fx.symbolic_trace, and with it create_feature_extractor of torchvision, cannot '
            'trace this backbone: its windows depend on the size of the input. out_indices gives '
            'the maps of stages, forward hooks give those of any module, and torch.export.export '
            'records a graph; docs/migrate.md, "Features from within", has examples'
        )


def transformed() -> bool:
    """Whether functorch transforms what runs; it knows PyTorch's own operators only."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def counted() -> bool:
    """Whether a dispatch mode sees every operator, as a FLOP counter does."""
    return _get_current_dispatch_mode() is not None


def intercepted() -> bool:
    """Whether a function mode sees every function, other than one that sets a default device."""
    modes = _get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def hooks_on_all_modules() -> bool:
    """Whether global module hooks are registered, other than those that only track names."""
    return torch_module._has_any_global_hook() and any(
        not isinstance(getattr(hook, '__self__', None), ModuleTracker)
        for name in _GLOBAL_HOOKS
        for hook in getattr(torch_module, name).values()
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has a hook, or a ``forward`` of its own beside its class's."""
    return 'forward' in module.__dict__ or bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_hooked_within(module: nn.Module) -> bool:
    """Whether that is true of a module or of any module within it."""
    return is_hooked(module) or any(
        is_hooked_within(child) for child in module._modules.values() if child is not None
    )


class Definitions:
    """Functions and methods as they were defined, to notice a replacement of one.

    Ports to other accelerators and instrumentation replace ``nn.Linear.forward`` or ``F.linear``
    for the whole process. A replacement made before this class is used counts too: a Python
    function that is not of the module that defines its owner.

    Args:
        *places: Pairs of an owner, which is a class or a module, and the name of a function there.
    """

    def __init__(self, *places: tuple[Any, str]) -> None:
        self._places = [(owner, name, _as_defined(owner, name)) for owner, name in places]

    def replaced(self) -> str | None:
        """The name of a function that was replaced, as ``'Linear.forward'``; None if none was."""
        for owner, name, original in self._places:
            if getattr(owner, name, None) is not original:
                return f'{owner.__name__}.{name}'
        return None

    @staticmethod
    def is_as_defined(module: nn.Module, owner: type[nn.Module]) -> bool:
        """Whether a module runs ``owner.forward`` as it was defined, without hooks."""
        kind = type(module)
        return (
            isinstance(module, owner)
            and kind.forward is owner.forward
            and kind.__call__ is nn.Module.__call__
            and not is_hooked(module)
        )


def _as_defined(owner: Any, name: str) -> Callable | None:
    """The function of that name; None if it is not of the module that defines its owner."""
    function = getattr(owner, name)
    if not isinstance(function, FunctionType):  # built-in, or another callable in its place
        return function if inspect.isroutine(function) else None
    if isinstance(owner, type):
        owner = sys.modules[next(c for c in owner.__mro__ if name in vars(c)).__module__]
    return function if function.__globals__ is vars(owner) else None


_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.GELU, nn.Softmax)
_KINDS += (nn.ReLU, nn.Sequential, nn.Identity, nn.Unfold)
_FUNCTIONS = ('linear', 'layer_norm', 'dropout', 'gelu', 'softmax', 'relu', 'unfold', 'pad')
# What modules of this package would call, if a faster path did not stand in for them.
TORCH = Definitions(
    *((kind, 'forward') for kind in _KINDS),
    *((F, name) for name in _FUNCTIONS),
    *((torch.Tensor, name) for name in ('__matmul__', '__add__', '__mul__', 'softmax')),
    *((torch, name) for name in ('layer_norm', 'roll')),
)
# Exporters replace these themselves, as they use function modes.
CALLS = Definitions(*((kind, name) for kind in _KINDS for name in ('__call__', '_call_impl')))


# A compiled graph keeps the answer of when it was traced.
@torch.compiler.assume_constant_result
def observed() -> str | None:
    """Why no module may be left out, whichever it is; None where some may."""
    if hooks_on_all_modules():
        return 'there are hooks on all modules'
    if not recording() and intercepted():
        return 'a function mode is active'
    name = TORCH.replaced() or (None if recording() else CALLS.replaced())
    return None if name is None else f'{name} is replaced'

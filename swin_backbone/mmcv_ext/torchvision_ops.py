"""torchvision's compiled operators, if there are any that run, without importing torchvision.

``operator(name, tensor)`` returns ``torch.ops.torchvision.<name>`` where it has a kernel for the
tensor's device, else None. On a CPU it is None, too: there this package's own code is as fast, or
faster, and needs no other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# What torchvision asks torch for while it is imported.
NEEDED = ('nms', 'qnms')

# Devices on which the operators are used.
DEVICES = {'cuda'}


def _has_kernel(name: str, device: str) -> bool:
    """Whether an operator is defined, with a kernel for a type of device."""
    name = f'torchvision::{name}'
    defined = torch._C._dispatch_has_kernel(name)
    return defined and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())


def _libraries() -> list[Path]:
    """The libraries with operators of the torchvision that is installed."""
    try:
        spec = find_spec('torchvision')
    except ValueError:  # a module without a spec stands in for it
        return []
    if spec is None or spec.origin is None:
        return []
    # `_C_stable.so` from torchvision 0.29 on, before it `_C.so`; with an ABI tag in source builds.
    found = Path(spec.origin).parent.glob('_C*')
    return [path for path in sorted(found) if path.suffix in ('.so', '.pyd', '.dylib')]


def load() -> None:
    """Loads the library of the torchvision that can be imported now, if there is one.

    A torchvision for another build of torch has a library that does not load. Then ``import
    torchvision`` raises RuntimeError, because its Python code registers shape functions for
    operators that do not exist, and so does ``mim train``: mmengine imports it to report its
    version. The operators are declared for that import, without kernels: a call still fails.
    """
    _load(tuple(_libraries()))


@functools.cache
def _load(libraries: tuple[Path, ...]) -> None:
    for path in libraries:
        try:
            torch.ops.load_library(path)
        except OSError:  # what it is linked against is missing
            continue
    for name in NEEDED if libraries else ():
        # Declaring what a library has defined would abort the process.
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')


@functools.cache
def _find(name: str, device: str) -> Callable[..., Any] | None:
    load()
    return getattr(torch.ops.torchvision, name) if _has_kernel(name, device) else None


def operator(name: str, tensor: Tensor) -> Callable[..., Any] | None:
    """An operator of torchvision that runs, and is used, on the tensor's device, or None."""
    device = tensor.device.type
    return _find(name, device) if device in DEVICES else None

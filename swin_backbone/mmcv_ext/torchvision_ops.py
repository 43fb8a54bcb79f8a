"""torchvision's compiled operators, if available, without importing torchvision.

``operator(name, tensor)`` returns ``torch.ops.torchvision.<name>`` if it has a kernel for the
tensor's device, else None. It also returns None on a CPU, where this package's own code is at least
as fast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Operators that torchvision requires while it is imported.
NEEDED = ('nms', 'qnms')

# Devices on which torchvision's operators are used.
DEVICES = {'cuda'}


def _has_kernel(name: str, device: str) -> bool:
    """Whether an operator is defined and has a kernel for a device type."""
    name = f'torchvision::{name}'
    defined = torch._C._dispatch_has_kernel(name)
    return defined and torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())


def _libraries() -> list[Path]:
    """The libraries of the installed torchvision's operators."""
    try:
        spec = find_spec('torchvision')
    except ValueError:  # a replacement module without a spec
        return []
    if spec is None or spec.origin is None:
        return []
    # `_C_stable.so` since torchvision 0.29, before `_C.so`; source builds add an ABI tag.
    found = Path(spec.origin).parent.glob('_C*')
    return [path for path in sorted(found) if path.suffix in ('.so', '.pyd', '.dylib')]


def load() -> None:
    """Loads the libraries of the installed torchvision, if there is one.

    The library of a torchvision for another build of torch does not load. Then ``import
    torchvision`` raises RuntimeError, because its Python code registers shape functions for missing
    operators, and ``mim train`` fails, because mmengine imports torchvision to report its version.
    Therefore the missing operators are declared without kernels: calling them still fails.
    """
    _load(tuple(_libraries()))


@functools.cache
def _load(libraries: tuple[Path, ...]) -> None:
    for path in libraries:
        try:
            torch.ops.load_library(path)
        except OSError:  # linked to a missing library
            continue
    for name in NEEDED if libraries else ():
        # Declaring an operator twice would abort the process.
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')


@functools.cache
def _find(name: str, device: str) -> Callable[..., Any] | None:
    load()
    return getattr(torch.ops.torchvision, name) if _has_kernel(name, device) else None


def operator(name: str, tensor: Tensor) -> Callable[..., Any] | None:
    """torchvision's operator for the tensor's device, or None."""
    device = tensor.device.type
    return _find(name, device) if device in DEVICES else None

"""Which backend the operators use: an explicit context first, then the environment, then choice.

There is no global switch: :func:`use_backend` holds for the code within its ``with`` alone (and,
being a context variable, for the thread or task that entered it).
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

import torch

from ..errors import ArgumentError

BACKENDS = ('reference', 'indexed', 'sdpa', 'triton', 'cpu')
ENVIRONMENT_VARIABLE = 'SWIN_BACKEND'

_context: contextvars.ContextVar[str | None] = contextvars.ContextVar('swin_backend', default=None)


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Runs the operators called within on the named backend; None: whatever suits each call.

    Args:
        name: ``'reference'`` (plain PyTorch, differentiable any number of times), ``'indexed'``
            (plain PyTorch whose trace holds for every size, for exporters), ``'sdpa'``,
            ``'triton'``, ``'cpu'``, or None or ``'auto'`` for the automatic choice, also where the
            environment variable ``SWIN_BACKEND`` names one.

    Raises:
        ArgumentError: An unknown name.
    """
    token = _context.set(checked(name, 'use_backend') or 'auto')
    try:
        yield
    finally:
        _context.reset(token)


# A compiled graph keeps the backend that was asked for when it was traced.
@torch.compiler.assume_constant_result
def requested_backend() -> str | None:
    """The name asked for by the context or, without one, the environment; None: free choice."""
    name = _context.get()
    if name is None:
        name = checked(os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE)
    return None if name == 'auto' else name


def checked(name: str | None, where: str) -> str | None:
    """``name``, or None for ``'auto'``; ``where`` says in the error who gave it."""
    if name is None or name == 'auto':
        return None
    if name not in BACKENDS:
        raise ArgumentError(
            f'{where}: unknown backend {name!r}; it is one of {", ".join(BACKENDS)}, or auto'
        )
    return name

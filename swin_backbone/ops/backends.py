"""The backends of window attention: their type, and which one is requested.

An argument takes precedence over :func:`use_backend`, which takes precedence over the environment
variable. There is no global switch: :func:`use_backend` sets a context variable, which holds only
within its ``with`` and for the thread or task that entered it.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError

BACKENDS = ('reference', 'indexed', 'sdpa', 'triton', 'cpu')
ENVIRONMENT_VARIABLE = 'SWIN_BACKEND'

_context: contextvars.ContextVar[str | None] = contextvars.ContextVar('swin_backend', default=None)


class Problem(NamedTuple):
    """The properties of a call of window attention that decide which backend can run it."""

    device: torch.device
    dtype: torch.dtype
    window_size: int
    head_dim: int
    dropout_p: float = 0.0


@dataclass(frozen=True)
class Backend:
    """One implementation of shifted-window attention.

    A backend has ``attend``, or ``forward`` and ``backward``, or all three.

    Attributes:
        name: One of :data:`BACKENDS`.
        can_run: Returns why the backend cannot run a problem; None if it can.
        attend: The op as a differentiable function, with the signature of
            :func:`.window_attention.reference.shifted_window_attention`. None if the backend
            supports no dropout.
        forward: ``forward(qkv, bias, padding, window_size, shift_size, scale)`` returns the output.
            It saves nothing for the backward pass.
        backward: ``backward(grad, *arguments of forward)`` returns the gradients of ``qkv``,
            ``bias`` and ``padding`` (None without padding).
    """

    name: str
    can_run: Callable[[Problem], str | None]
    attend: Callable[..., Tensor] | None = None
    forward: Callable[..., Tensor] | None = None
    backward: Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None = None


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Context manager that selects the backend of the operators called within it.

    Args:
        name: ``'reference'`` (plain PyTorch, differentiable any number of times), ``'indexed'``
            (plain PyTorch for exporters: a traced graph is valid for every size), ``'sdpa'``,
            ``'triton'`` or ``'cpu'``. None or ``'auto'`` selects the fastest backend for each call,
            even if the environment variable ``SWIN_BACKEND`` is set.

    Raises:
        ArgumentError: The name is unknown.
    """
    token = _context.set(checked(name, 'use_backend') or 'auto')
    try:
        yield
    finally:
        _context.reset(token)


# A compiled graph keeps the backend that was requested during compilation.
@torch.compiler.assume_constant_result
def requested_backend() -> str | None:
    """The backend requested by the context, else by the environment; None if none is requested."""
    name = _context.get()
    if name is None:
        name = checked(os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE)
    return None if name == 'auto' else name


def checked(name: str | None, where: str) -> str | None:
    """Returns ``name``, or None for ``'auto'``.

    Raises:
        ArgumentError: The name is unknown; the message begins with ``where``.
    """
    if name is None or name == 'auto':
        return None
    if name not in BACKENDS:
        raise ArgumentError(
            f'{where}: unknown backend {name!r}; it is one of {", ".join(BACKENDS)}, or auto'
        )
    return name

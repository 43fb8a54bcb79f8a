"""Which backend takes a call, and why."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch

from ...errors import ArgumentError
from ..backends import checked, requested_backend
from .operator import load
from .problem import Problem
from .trial import fault

# What is tried on each kind of device, the fastest first; `reference` runs anywhere. On a CPU
# PyTorch's own kernel is not tried by itself: with dropout it writes all scores just as well.
ORDER = {'cuda': ('triton', 'sdpa'), 'cpu': ('cpu',)}
OTHERWISE = ('sdpa',)


class Choice(NamedTuple):
    """A backend, why it was taken, and why those before it were not."""

    backend: str
    reason: str
    rejected: dict[str, str]


def explain_backend(
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
    *,
    window_size: int = 7,
    head_dim: int = 32,
    dropout_p: float = 0.0,
    backend: str | None = None,
) -> Choice:
    """What :func:`shifted_window_attention` would run on for such a call, and why.

    Raises:
        ArgumentError: A backend that was asked for cannot take it; the message says why.
    """
    return choose(
        Problem(torch.device(device).type, dtype, window_size, head_dim, dropout_p), backend
    )


def choose(problem: Problem, backend: str | None = None) -> Choice:
    """The backend asked for by argument, context or environment, else the first that can run."""
    if (name := checked(backend, 'backend')) is not None:
        return _asked(problem, name, 'by argument')
    if backend is None and (name := requested_backend()) is not None:
        return _asked(problem, name, 'by context or environment')
    rejected: dict[str, str] = {}
    for name in ORDER.get(problem.device, OTHERWISE):
        why_not = can_run(name, problem) or _fault(name, problem)
        if why_not is None:
            return Choice(name, f'the fastest for {problem.device} tensors', rejected)
        rejected[name] = why_not
    return Choice('reference', 'nothing faster can run', rejected)


# A compiled graph keeps what was chosen when it was traced.
@torch.compiler.assume_constant_result
def chosen(
    device: str,
    dtype: torch.dtype,
    window_size: int,
    head_dim: int,
    dropout_p: float,
    backend: str | None,
) -> str:
    """The name of :func:`choose`'s backend."""
    return choose(Problem(device, dtype, window_size, head_dim, dropout_p), backend).backend


def can_run(backend: str, problem: Problem) -> str | None:
    """Why a backend cannot take a call; None where it can."""
    if backend in ('reference', 'indexed'):
        return None
    if backend == 'triton' and importlib.util.find_spec('triton') is None:
        return 'triton is not installed'
    return load(backend).can_run(problem)


def _fault(backend: str, problem: Problem) -> str | None:
    """What a trial finds wrong with a backend that is not asked for by name."""
    if backend != 'triton' or not torch.cuda.is_available():
        return None
    if torch.cuda.is_current_stream_capturing():  # a graph must not record the trial
        return None
    return fault(problem.device, problem.dtype, problem.window_size, problem.head_dim)


def _asked(problem: Problem, backend: str, by: str) -> Choice:
    why_not = can_run(backend, problem)
    if why_not is not None:
        raise ArgumentError(f'backend {backend!r}, asked for {by}, cannot run here: {why_not}')
    return Choice(backend, f'asked for {by}', {})

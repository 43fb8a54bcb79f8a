"""Selects the backend of a call, and explains the choice."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ...errors import ArgumentError
from ..backends import Problem, checked, requested_backend
from ..recording import capturing
from ..trial import Setting
from .operator import IMPLEMENTATIONS
from .trial import TRIAL

# The candidates for each kind of device, fastest first; `reference` is the fallback. `sdpa` is no
# candidate on CPUs: with dropout, PyTorch's kernel writes all scores to memory too.
ORDER = {'cuda': ('triton', 'sdpa'), 'cpu': ('cpu',)}
OTHERWISE = ('sdpa',)


class Choice(NamedTuple):
    """The selected backend, the reason, and why each faster candidate was rejected."""

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
    """The backend that :func:`shifted_window_attention` selects for such a call, and why.

    Raises:
        ArgumentError: The requested backend cannot run the call; the message says why.
    """
    return choose(Problem(torch.device(device), dtype, window_size, head_dim, dropout_p), backend)


def choose(problem: Problem, backend: str | None = None) -> Choice:
    """The backend requested by argument, context or environment, else the first that can run."""
    if (name := checked(backend, 'backend')) is not None:
        return _requested(problem, name, 'by argument')
    if backend is None and (name := requested_backend()) is not None:
        return _requested(problem, name, 'by context or environment')
    rejected: dict[str, str] = {}
    for name in ORDER.get(problem.device.type, OTHERWISE):
        why_not = can_run(name, problem) or _fault(name, problem)
        if why_not is None:
            return Choice(name, f'the fastest for {problem.device.type} tensors', rejected)
        rejected[name] = why_not
    return Choice('reference', 'nothing faster can run', rejected)


# A compiled graph keeps the backend that was selected during compilation.
@torch.compiler.assume_constant_result
def chosen(
    device: torch.device,
    dtype: torch.dtype,
    window_size: int,
    head_dim: int,
    dropout_p: float,
    backend: str | None,
) -> str:
    """The name of the backend that :func:`choose` selects."""
    return choose(Problem(device, dtype, window_size, head_dim, dropout_p), backend).backend


def can_run(backend: str, problem: Problem) -> str | None:
    """Why a backend cannot run a problem; None if it can."""
    return IMPLEMENTATIONS[backend].can_run(problem)


def _fault(backend: str, problem: Problem) -> str | None:
    """Why a backend failed its trial; None if it passed or needs none."""
    # A CUDA graph must not record the trial.
    if backend != 'triton' or not torch.cuda.is_available() or capturing():
        return None
    device = problem.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    setting = Setting(problem.device, problem.dtype, autocast)
    return TRIAL.fault(setting, problem.window_size, problem.head_dim)


def _requested(problem: Problem, backend: str, by: str) -> Choice:
    why_not = can_run(backend, problem)
    if why_not is not None:
        raise ArgumentError(f'backend {backend!r}, asked for {by}, cannot run here: {why_not}')
    return Choice(backend, f'asked for {by}', {})

"""A whole Swin block on a feature map, fused."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..backends import requested_backend
from ..trial import why_not_kernels
from . import cpu, triton
from .parameters import Options, Parameters
from .trial import TRIAL

__all__ = ['Options', 'Parameters', 'swin_block', 'why_not']


def why_not(x: Tensor, heads: int, window_size: int, hidden: int) -> str | None:
    """Why :func:`swin_block` cannot run on a map ``x``, (..., C); None if it can.

    Args:
        x: The map.
        heads: Number of attention heads.
        window_size: Side of a window, in tokens.
        hidden: Width of the hidden layer.
    """
    if _uses_triton(x):
        can_run = partial(triton.can_run, x, heads, window_size)
        return why_not_kernels(x, can_run, TRIAL, x.shape[-1], heads, window_size, hidden)
    if (requested := requested_backend()) not in (None, 'cpu'):
        return f'backend {requested!r} was asked for'
    return cpu.can_run(x)


def swin_block(
    x: Tensor,
    parameters: Parameters,
    options: Options,
    factors: Tensor | None = None,
    recompute: bool | str = False,
) -> Tensor:
    """:func:`.reference.swin_block`, fused for the device of ``x``; differentiable once.

    ``recompute`` selects what else is computed again in the backward pass: ``'attention'``,
    ``'mlp'``, or both (True or ``'block'``).
    """
    backend = triton if _uses_triton(x) else cpu
    return backend.swin_block(x, parameters, options, factors, recompute)


def _uses_triton(x: Tensor) -> bool:
    return x.is_cuda or requested_backend() == 'triton'

"""A whole Swin block on a feature map, for where it is faster in one piece than by its modules."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..backends import requested_backend
from ..trial import why_not_kernels
from . import cpu, triton
from .parameters import Options, Parameters
from .trial import fault

__all__ = ['Options', 'Parameters', 'swin_block', 'why_not']


def why_not(x: Tensor, heads: int, window_size: int, hidden: int) -> str | None:
    """Why :func:`swin_block` cannot take a map ``x``, (..., C); None where it can.

    Args:
        x: The map.
        heads: Attention heads.
        window_size: Side of a window, in tokens.
        hidden: Width of the hidden layer.
    """
    if _for_kernels(x):
        can_run = partial(triton.can_run, x, heads, window_size)
        return why_not_kernels(x, can_run, partial(fault, x, heads, window_size, hidden))
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
    """As :func:`.reference.swin_block`, by what suits the device; can be differentiated once.

    ``recompute`` says what is computed again for the backward pass besides what always is:
    ``'attention'``, ``'mlp'``, or both: True or ``'block'``.
    """
    backend = triton if _for_kernels(x) else cpu
    return backend.swin_block(x, parameters, options, factors, recompute)


def _for_kernels(x: Tensor) -> bool:
    return x.is_cuda or requested_backend() == 'triton'

"""A whole Swin block on a feature map, for where it is faster in one piece than by its modules."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import Tensor

from ..backends import requested_backend
from .parameters import Options, Parameters

__all__ = ['Options', 'Parameters', 'swin_block', 'why_not']


def why_not(x: Tensor, heads: int, window_size: int, hidden: int) -> str | None:
    """Why :func:`swin_block` cannot take a map ``x``, (..., C); None where it can.

    Args:
        x: The map.
        heads: Attention heads.
        window_size: Side of a window, in tokens.
        hidden: Width of the hidden layer.
    """
    name = _suitable(x)
    if requested_backend() not in (None, name):
        return f'backend {requested_backend()!r} was asked for'
    if (reason := _load(name).can_run(x, heads, window_size)) is not None:
        return reason
    if name != 'triton' or requested_backend() == name:
        return None
    from .trial import fault

    return fault(x, heads, window_size, hidden)


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
    return _load(_suitable(x)).swin_block(x, parameters, options, factors, recompute)


def _suitable(x: Tensor) -> str:
    return 'triton' if x.is_cuda or requested_backend() == 'triton' else 'cpu'


def _load(name: str) -> ModuleType:
    """The module of a backend, imported when it is first used."""
    return importlib.import_module(f'{__package__}.{name}')

"""Arithmetic of sizes, in a form that exporters and compilers can reason about.

Each is one number in two forms. Symbolic sizes that are nested in negations, stage by stage, take
an exporter minutes; of the other form inductor (torch 2.13) cannot tell which stride is larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Since torch 2.7; exports ask for a newer one.
_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def ceil_div(length: int, step: int) -> int:
    """How many steps cover a length."""
    if _exporting() or torch.jit.is_tracing():
        return (length + step - 1) // step
    return -(-length // step)


def lacking(length: int, step: int) -> int:
    """What a length lacks to a multiple of the step."""
    if _exporting() or torch.jit.is_tracing():
        return ceil_div(length, step) * step - length
    return -length % step


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """``x.unflatten(dim, sizes)``, in a form that a traced graph keeps for every size.

    TorchScript's ONNX exporter has no ``unflatten`` before operator set 13, and from there on makes
    constants of the other axes.
    """
    if not torch.jit.is_tracing():
        return x.unflatten(dim, sizes)
    # One by one: a tracer follows a size that is taken from a shape, but not a slice of one.
    shape = [x.shape[axis] for axis in range(x.dim())]
    dim %= len(shape)
    return x.reshape(*shape[:dim], *sizes, *shape[dim + 1 :])


def padded_tokens(B: int, H: int, W: int, window_size: int) -> int:
    """Tokens of B maps (H, W) that are padded to whole windows."""
    return B * ceil_div(H, window_size) * ceil_div(W, window_size) * window_size**2

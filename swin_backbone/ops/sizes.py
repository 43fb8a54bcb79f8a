"""Arithmetic of sizes, in a form that exporters and compilers can reason about.

Each is one number in two forms. Symbolic sizes that are nested in negations, stage by stage, take
an exporter minutes; of the other form inductor (torch 2.13) cannot tell which stride is larger.
"""

from __future__ import annotations

import torch

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


def padded_tokens(B: int, H: int, W: int, window_size: int) -> int:
    """Tokens of B maps (H, W) that are padded to whole windows."""
    return B * ceil_div(H, window_size) * ceil_div(W, window_size) * window_size**2

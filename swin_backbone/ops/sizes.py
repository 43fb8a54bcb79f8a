"""Arithmetic of sizes, in a form that exporters and compilers simplify."""

from __future__ import annotations

import torch


def ceil_div(length: int, step: int) -> int:
    """How many steps cover a length.

    ``-(-length // step)`` is the same number, but symbolic sizes nested in it, stage by stage, take
    a compiler minutes to reason about.
    """
    return (length + step - 1) // step


def recording() -> bool:
    """Whether a compiler, exporter or tracer makes a graph of what runs, for other sizes too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()

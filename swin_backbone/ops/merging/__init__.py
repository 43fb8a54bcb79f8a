"""Patch merging on a feature map, for where it is faster in one piece than by its modules."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..trial import why_not_kernels
from .trial import fault
from .triton import can_run, patch_merging

__all__ = ['patch_merging', 'why_not']


def why_not(x: Tensor) -> str | None:
    """Why :func:`patch_merging` cannot take a map ``x``, (..., C); None where it can."""
    return why_not_kernels(x, partial(can_run, x), partial(fault, x))

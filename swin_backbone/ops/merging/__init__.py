"""Patch merging on a feature map, fused on GPUs."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..trial import why_not_kernels
from .trial import TRIAL
from .triton import can_run, patch_merging

__all__ = ['patch_merging', 'why_not']


def why_not(x: Tensor) -> str | None:
    """Why :func:`patch_merging` cannot run on a map ``x``, (..., C); None if it can."""
    return why_not_kernels(x, partial(can_run, x), TRIAL, x.shape[-1])

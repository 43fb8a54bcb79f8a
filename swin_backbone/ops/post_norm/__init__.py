"""Residual paths with a norm at their end (Swin V2, figure 1), fused on GPUs."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..trial import why_not_kernels
from .parameters import FeedForward, Norm
from .trial import TRIAL
from .triton import can_run, feed_forward, norm_add

__all__ = ['FeedForward', 'Norm', 'feed_forward', 'norm_add', 'why_not']


def why_not(x: Tensor, hidden: int) -> str | None:
    """Why the functions of this package cannot run on tokens ``x``, (B, L, C); None if they can.

    ``hidden`` is the width of the hidden layer.
    """
    return why_not_kernels(x, partial(can_run, x), TRIAL, x.shape[-1], hidden)

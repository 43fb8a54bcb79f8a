"""Autograd mode, dtype and batch splitting of operators that mmcv's autograd functions call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec('P')
R = TypeVar('R')


def operator(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function like a compiled operator: without autograd and autocast."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the dtype of computation: float64 stays, all others become float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def batches(size: int, elements: int, most: int = 2**25) -> list[slice]:
    """Splits a batch into slices of at least one sample, to bound memory.

    Args:
        size: Number of samples.
        elements: Elements of the largest intermediate tensor per sample.
        most: Largest number of these elements in a slice; by default 128 MiB of float32.
    """
    step = max(1, most // max(1, elements))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]

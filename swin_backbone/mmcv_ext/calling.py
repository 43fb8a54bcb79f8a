"""How mmcv's autograd functions call an operator, and in what dtype it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec('P')
R = TypeVar('R')


def operator(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function as a compiled operator runs: autograd does not record it, autocast is off."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that sums are taken in: float32, or float64 if it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def batches(size: int, elements: int, most: int = 2**25) -> list[slice]:
    """Slices of a batch that have up to ``most`` elements each, and at least one sample.

    Args:
        size: Samples of the batch.
        elements: Elements of the largest intermediate tensor for one sample.
        most: Elements of that tensor at once: 128 MiB of float32.
    """
    step = max(1, most // max(1, elements))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]

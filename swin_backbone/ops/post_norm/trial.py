"""The trial of the Triton kernels of residual paths with a norm at their end."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ..trial import Comparison, Draw, Trial
from . import reference, triton
from .parameters import FeedForward, Norm


def _comparison(draw: Draw, C: int, hidden: int) -> Comparison:
    """The norms and the feed-forward network of a block, with drop path."""
    x, path = draw.map(2, 15, C), draw.map(2, 15, C)
    norms = [draw.parameter(C) for _ in range(4)]
    factors = torch.tensor([0.0, 1.5], device=x.device)

    def on(ops: ModuleType) -> Callable[..., Tensor]:
        def paths(x: Tensor, path: Tensor, *parameters: Tensor) -> Tensor:
            weight1, bias1, weight2, bias2, fc1, fc1_bias, fc2, fc2_bias = parameters
            x = ops.norm_add(x, path, Norm(weight1, bias1, 1e-5), factors)
            norm = Norm(weight2, bias2, 1e-5)
            return ops.feed_forward(x, FeedForward(fc1, fc1_bias, fc2, fc2_bias, norm), factors)

        return paths

    tensors = x, path, *norms, *draw.linear(hidden, C), *draw.linear(C, hidden)
    return Comparison(tensors, on(triton), on(reference))


TRIAL = Trial(_comparison, 'runs V2 blocks on GPUs module by module')

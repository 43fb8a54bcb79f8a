"""The trial of the block's Triton kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..trial import Comparison, Draw, Trial
from . import reference, triton
from .parameters import Options, Parameters


def _comparison(draw: Draw, C: int, heads: int, window_size: int, hidden: int) -> Comparison:
    """A shifted block with drop path on a map that is padded."""
    x = draw.map(2, window_size + 1, window_size - 1 or 1, C)
    parameters = Parameters(
        *(draw.parameter(C), draw.parameter(C)),
        *draw.linear(3 * C, C),
        draw.parameter(heads, window_size**2, window_size**2),
        *draw.linear(C, C),
        *(draw.parameter(C), draw.parameter(C)),
        *draw.linear(hidden, C),
        *draw.linear(C, hidden),
    )
    options = Options(window_size, window_size // 2, (C // heads) ** -0.5, 1e-5, 1e-5)
    factors = torch.tensor([[0.0, 1.5], [1.25, 1.0]], device=x.device)

    def on(swin_block: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *parameters: swin_block(x, Parameters(*parameters), options, factors)

    tensors = [x, *(p for p in parameters if p is not None)]
    return Comparison(tensors, on(triton.swin_block), on(reference.swin_block))


TRIAL = Trial(_comparison, 'runs blocks on GPUs module by module')

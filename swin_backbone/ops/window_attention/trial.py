"""The trial of attention's Triton kernels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..trial import Comparison, Draw, Trial
from . import reference, triton


def _comparison(draw: Draw, window_size: int, head_dim: int) -> Comparison:
    """Two heads on a map that is padded and shifted."""
    heads, area, width = 2, window_size**2, 3 * 2 * head_dim
    qkv = draw.map(1, window_size + 1, 2 * window_size - 1, width)
    tensors = qkv, draw.parameter(heads, area, area), draw.parameter(width)

    def on(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda qkv, bias, padding: attend(
            qkv, bias, padding=padding, window_size=window_size, shift_size=window_size // 2
        )

    ours, exact = on(triton.shifted_window_attention), on(reference.shifted_window_attention)
    return Comparison(tensors, ours, exact)


TRIAL = Trial(_comparison, 'does without triton')

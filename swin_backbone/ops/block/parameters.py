"""Parameters of a block, as plain tensors and numbers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Parameters(NamedTuple):
    """Weights of a block of width C whose hidden layer has width F.

    Attributes:
        bias: Relative position bias, (heads, M², M²).
        qkv_weight, qkv_bias: (3C, C) and (3C,) or None.
        proj_weight, proj_bias: (C, C) and (C,).
        fc1_weight, fc1_bias: (F, C) and (F,).
        fc2_weight, fc2_bias: (C, F) and (C,).
        norm1_weight, norm1_bias, norm2_weight, norm2_bias: (C,).
    """

    norm1_weight: Tensor
    norm1_bias: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor | None
    bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    norm2_weight: Tensor
    norm2_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


class Options(NamedTuple):
    """Options of window attention, and the epsilons of the two norms."""

    window_size: int
    shift_size: int
    scale: float
    eps1: float
    eps2: float

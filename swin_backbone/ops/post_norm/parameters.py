"""Parameters of residual paths with a norm at their end."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """Weight and bias (C,) of a layer norm, and its epsilon."""

    weight: Tensor
    bias: Tensor
    eps: float


class FeedForward(NamedTuple):
    """A feed-forward network of width C with a hidden layer of width F.

    Attributes:
        fc1_weight, fc1_bias: (F, C) and (F,).
        fc2_weight, fc2_bias: (C, F) and (C,).
        norm: The norm of its output.
    """

    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor
    norm: Norm

"""The definition of residual paths with a norm at their end, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .parameters import FeedForward, Norm


def norm_add(x: Tensor, path: Tensor, norm: Norm, factors: Tensor | None = None) -> Tensor:
    """Returns ``x + factors * norm(path)``.

    Args:
        x: Tokens (B, L, C).
        path: The path, (B, L, C).
        norm: Its norm.
        factors: (B,), the factor of drop path for each sample: 0 or 1 / (1 - rate). 1 if None.

    Returns:
        (B, L, C).
    """
    path = F.layer_norm(path, path.shape[-1:], *norm)
    return x + (path if factors is None else factors[:, None, None] * path)


def feed_forward(x: Tensor, p: FeedForward, factors: Tensor | None = None) -> Tensor:
    """:func:`norm_add` with a path of two linear layers and GELU, on tokens (B, L, C)."""
    hidden = F.gelu(F.linear(x, p.fc1_weight, p.fc1_bias))
    return norm_add(x, F.linear(hidden, p.fc2_weight, p.fc2_bias), p.norm, factors)

"""The definition of paths that are normalised before they are added, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .parameters import FeedForward, Norm


def norm_add(x: Tensor, path: Tensor, norm: Norm, factors: Tensor | None = None) -> Tensor:
    """``x + factors * norm(path)``.

    Args:
        x: Tokens (B, L, C).
        path: What is normalised and added, (B, L, C).
        norm: The norm.
        factors: (B,), on each sample's path: drop path draws 0 or 1 / (1 - rate). 1 if None.

    Returns:
        (B, L, C).
    """
    path = F.layer_norm(path, path.shape[-1:], *norm)
    return x + (path if factors is None else factors[:, None, None] * path)


def feed_forward(x: Tensor, p: FeedForward, factors: Tensor | None = None) -> Tensor:
    """:func:`norm_add` of two linear layers with GELU between them, on tokens (B, L, C)."""
    hidden = F.gelu(F.linear(x, p.fc1_weight, p.fc1_bias))
    return norm_add(x, F.linear(hidden, p.fc2_weight, p.fc2_bias), p.norm, factors)

"""The definition of patch merging (section 3.1), in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def patch_merging(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, *, eps: float
) -> Tensor:
    """Concatenates, normalises and projects the tokens of each 2×2 neighbourhood.

    Args:
        x: A map (B, H, W, C). Odd sides are padded with zeros at the bottom and right.
        norm_weight, norm_bias: Parameters of the norm, (4C,), channels ordered as (C, row, column).
        weight: Weight of the projection, (D, 4C).
        eps: Epsilon of the norm.

    Returns:
        (B, H / 2, W / 2, D), sides rounded up.
    """
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
    x = x.permute(0, 1, 3, 5, 2, 4).flatten(3)
    return F.linear(F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps), weight)

"""The definition of a Swin block (equation 3), in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..window_attention.reference import shifted_window_attention
from .parameters import Options, Parameters


def swin_block(
    x: Tensor, parameters: Parameters, options: Options, factors: Tensor | None = None
) -> Tensor:
    """Window attention and a feed-forward network, each a residual path that begins with a norm.

    Args:
        x: A map (B, H, W, C).
        parameters: Weights of the block.
        options: Options of the block.
        factors: (2, B), the factors of drop path for the attention and the feed-forward path of
            each sample: 0 or 1 / (1 - rate). 1 if None.

    Returns:
        (B, H, W, C).
    """
    p, o = parameters, options
    if factors is None:
        factors = x.new_ones(2, len(x))
    first, second = factors[:, :, None, None, None]
    width = x.shape[-1:]
    normed = F.layer_norm(x, width, p.norm1_weight, p.norm1_bias, o.eps1)
    attended = shifted_window_attention(
        F.linear(normed, p.qkv_weight, p.qkv_bias),
        p.bias,
        window_size=o.window_size,
        shift_size=o.shift_size,
        scale=o.scale,
        padding=p.qkv_bias,
    )
    x = x + first * F.linear(attended, p.proj_weight, p.proj_bias)
    normed = F.layer_norm(x, width, p.norm2_weight, p.norm2_bias, o.eps2)
    hidden = F.gelu(F.linear(normed, p.fc1_weight, p.fc1_bias))
    return x + second * F.linear(hidden, p.fc2_weight, p.fc2_bias)

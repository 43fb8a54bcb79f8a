"""Shifted-window attention with PyTorch's scaled_dot_product_attention, on any device.

PyTorch selects the kernel. Fused kernels never write the score matrix to memory.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..backends import Backend, Problem
from .reference import pad_to_windows, shift_mask, window_reverse


def can_run(problem: Problem) -> str | None:
    """Why this backend cannot run a problem; None if it can."""
    if not problem.dtype.is_floating_point:
        return f'dtype {problem.dtype} is not floating point'
    return None


def shifted_window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    padding: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """:func:`.reference.shifted_window_attention`."""
    B, H, W, channels = qkv.shape
    heads, area = bias.shape[0], window_size**2
    head_dim = channels // (3 * heads)
    qkv = pad_to_windows(qkv, window_size, padding)
    Hp, Wp = qkv.shape[1:3]
    if shift_size:
        qkv = qkv.roll((-shift_size, -shift_size), (1, 2))
    shape = (B, Hp // window_size, window_size, Wp // window_size, window_size, 3, heads, head_dim)
    # The only partitioned copy: (3, B, rows of windows, columns, heads, M, M, head_dim).
    qkv = qkv.reshape(shape).permute(5, 0, 1, 3, 6, 2, 4, 7).contiguous()
    windows = Hp // window_size * (Wp // window_size)
    bias = bias.to(qkv.dtype)
    if shift_size:
        # Windows and heads share an axis, so that all images of the batch share one mask.
        mask = shift_mask(Hp, Wp, window_size, shift_size, bias)
        bias = (bias + mask[:, None]).reshape(1, windows * heads, area, area)
        qkv = qkv.view(3, B, windows * heads, area, head_dim)
    else:
        bias = bias[None]
        qkv = qkv.view(3, B * windows, heads, area, head_dim)
    q, k, v = qkv
    mask = bias.expand(len(q), -1, -1, -1)
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, scale=scale)
    out = out.reshape(B * windows, heads, area, head_dim).transpose(1, 2)
    out = window_reverse(out.reshape(B * windows, area, channels // 3), window_size, (B, Hp, Wp))
    if shift_size:
        out = out.roll((shift_size, shift_size), (1, 2))
    return out[:, :H, :W]


BACKEND = Backend('sdpa', can_run=can_run, attend=shifted_window_attention)

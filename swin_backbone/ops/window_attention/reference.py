"""The definition of shifted-window attention in plain PyTorch, differentiable and in any dtype.

Source: Liu et al., Swin Transformer (arXiv:2103.14030), section 3.2, in the form of the official
detection code: the map is padded at the bottom and the right to a multiple of the window, and the
padded tokens take part as keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..backends import Backend
from ..sizes import ceil_div

# The official code adds this to the score of two tokens of different regions. It is finite, so it
# is part of the definition: with large scores, minus infinity gives other results.
MASKED = -100.0


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
    """Multi-head self-attention within the (shifted) windows of a feature map (equation 4).

    Args:
        qkv: Queries, keys and values, (B, H, W, 3C), the channels ordered as (3, heads, C / heads).
        bias: Relative position bias added to the scores, (heads, window_size², window_size²).
        window_size: Side M of the square windows, in tokens.
        shift_size: Cyclic shift up and left before partitioning, 0 <= shift_size < window_size.
        scale: Factor on the queries; (C / heads) ** -0.5 if None.
        padding: qkv of a padded token, (3C,): the projection's bias, as the padded map is zero
            before the projection. Zero if None.
        dropout_p: Probability of dropping an attention weight; pass 0 in evaluation.

    Returns:
        (B, H, W, C), in the dtype of ``qkv`` unless autocast changes it.
    """
    B, H, W, channels = qkv.shape
    heads = bias.shape[0]
    head_dim = channels // (3 * heads)
    scale = head_dim**-0.5 if scale is None else scale

    qkv = pad_to_windows(qkv, window_size, padding)
    Hp, Wp = qkv.shape[1:3]
    if shift_size:
        qkv = qkv.roll((-shift_size, -shift_size), (1, 2))
    # (B * windows, M², 3, heads, head_dim) -> 3 × (B * windows, heads, M², head_dim)
    windows = window_partition(qkv, window_size).unflatten(-1, (3, heads, head_dim))
    q, k, v = windows.permute(2, 0, 3, 1, 4)

    scores = (q * scale) @ k.transpose(-2, -1) + bias
    if shift_size:
        mask = shift_mask(Hp, Wp, window_size, shift_size, scores)
        # All images of the batch share one mask. Explicit sizes support an empty batch.
        split = scores.view(B, len(mask), heads, *scores.shape[-2:])
        scores = (split + mask[:, None]).view(scores.shape)
    # A bias of higher precision must not raise the precision of the output.
    attention = F.dropout(scores.softmax(-1), dropout_p).to(v.dtype)

    out = (attention @ v).transpose(1, 2).flatten(-2)
    out = window_reverse(out, window_size, (B, Hp, Wp))
    if shift_size:
        out = out.roll((shift_size, shift_size), (1, 2))
    return out[:, :H, :W]


def pad_to_windows(x: Tensor, window_size: int, padding: Tensor | None = None) -> Tensor:
    """Pads a map (B, H, W, C) at the bottom and right to multiples of the window.

    ``padding`` (C,) is the value of a padded token, zero if None.
    """
    B, H, W, C = x.shape
    bottom = ceil_div(H, window_size) * window_size - H
    right = ceil_div(W, window_size) * window_size - W
    if not (right or bottom):
        return x
    if padding is None:
        return F.pad(x, (0, 0, 0, right, 0, bottom))
    padding = padding.to(x.dtype)
    x = torch.cat([x, padding.expand(B, H, right, C)], 2)
    return torch.cat([x, padding.expand(B, bottom, W + right, C)], 1)


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, C) to (B * windows, window_size², C), windows and tokens in raster order."""
    B, H, W, C = x.shape
    rows, columns = H // window_size, W // window_size
    x = x.view(B, rows, window_size, columns, window_size, C).transpose(2, 3)
    return x.reshape(B * rows * columns, window_size**2, C)


def window_reverse(windows: Tensor, window_size: int, size: tuple[int, int, int]) -> Tensor:
    """The inverse of :func:`window_partition`; ``size`` is (B, H, W) of the map."""
    B, H, W = size
    C = windows.shape[-1]
    shape = (B, H // window_size, W // window_size, window_size, window_size, C)
    return windows.view(shape).transpose(2, 3).reshape(B, H, W, C)


def shift_mask(H: int, W: int, window_size: int, shift_size: int, like: Tensor) -> Tensor:
    """The attention mask of shifted windows.

    The shifted, padded map (H, W) falls into 3 × 3 regions, cut at ``window_size`` and
    ``shift_size`` from its bottom and right ends. Tokens attend to their own region (figure 4).

    Returns:
        (windows, window_size², window_size²): 0 within a region, ``MASKED`` across; dtype and
        device of ``like``.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length, device=like.device)
        return (position >= length - window_size).long() + (position >= length - shift_size)

    regions = 3 * region(H)[:, None] + region(W)
    regions = window_partition(regions[None, :, :, None], window_size).squeeze(-1)
    apart = regions[:, :, None] != regions[:, None, :]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, MASKED)


BACKEND = Backend('reference', can_run=lambda problem: None, attend=shifted_window_attention)

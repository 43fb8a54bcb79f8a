"""Shifted-window self-attention on an un-partitioned feature map.

One front, :func:`shifted_window_attention`; ``reference.py`` is its definition, and every other
backend agrees with that or is wrong.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..backends import checked, requested_backend
from ..dtypes import products_dtype
from ..recording import recording, transformed
from . import cosine, reference
from .dispatch import Choice, chosen, explain_backend
from .operator import attention_op, load

__all__ = [
    'Choice',
    'explain_backend',
    'shifted_window_attention',
    'shifted_window_cosine_attention',
]

# The official V2's bound on the logarithm of the factor on cosines: a temperature of 0.01.
MAX_LOGIT_SCALE = math.log(1.0 / 0.01)


def shifted_window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    padding: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str | None = None,
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
        backend: One of :data:`~swin_backbone.ops.backends.BACKENDS`; None takes what
            :func:`~swin_backbone.ops.backends.use_backend` or ``SWIN_BACKEND`` names, else the
            fastest that can run. ``'reference'`` alone can be differentiated twice.

    Returns:
        (B, H, W, C), in the dtype of ``qkv`` (under autocast: in autocast's).

    Raises:
        ArgumentError: Shapes or sizes that do not fit, or a backend that cannot run.
    """
    head_dim = _check(qkv, bias, window_size, shift_size, padding)
    if (dtype := products_dtype(qkv)) != qkv.dtype:  # exporters would record a cast to the same
        qkv = qkv.to(dtype)
    options: dict[str, Any] = dict(
        window_size=window_size,
        shift_size=shift_size,
        scale=head_dim**-0.5 if scale is None else scale,
        padding=padding,
        dropout_p=dropout_p,
    )
    if torch.jit.is_tracing():
        name = 'indexed'
    elif transformed():
        name = 'reference'
    else:
        # All that a choice depends on. A module's attribute itself is no constant to a compiler.
        dropping = 0.0 if not dropout_p else 1.0 if dropout_p >= 1 else 0.5
        name = chosen(qkv.device.type, qkv.dtype, window_size, head_dim, dropping, backend)
    if name == 'reference':
        return reference.shifted_window_attention(qkv, bias, **options)
    if dropout_p or name == 'indexed':
        # The operator would have to draw again in its backward pass; autograd keeps what it needs.
        return load(name).shifted_window_attention(qkv, bias, **options)
    return attention_op(qkv, bias, padding, window_size, shift_size, options['scale'], name)


def shifted_window_cosine_attention(
    qkv: Tensor,
    bias: Tensor,
    logit_scale: Tensor,
    *,
    window_size: int,
    shift_size: int = 0,
    padding: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """As :func:`shifted_window_attention`, by cosines in place of dot products (V2, equation 2).

    Args:
        logit_scale: Logarithm of the factor on each head's cosines, ``heads`` elements of any
            shape; what exceeds ln 100 counts as that.

    The others are :func:`shifted_window_attention`'s. Lengths are computed in float32 at least.

    Raises:
        ArgumentError: Shapes or sizes that do not fit, or a backend that cannot run.
    """
    _check(qkv, bias, window_size, shift_size, padding)
    if logit_scale.numel() != bias.shape[0]:
        raise ArgumentError(
            f'logit_scale of shape {tuple(logit_scale.shape)} must have an element for each of the '
            f'{bias.shape[0]} heads of bias'
        )
    exact = torch.promote_types(logit_scale.dtype, torch.float32)
    scale = logit_scale.flatten().to(exact).clamp(max=MAX_LOGIT_SCALE).exp()
    # What compilers fuse and differentiate themselves is left to them.
    plain = recording() or transformed()
    if plain or (checked(backend, 'backend') or requested_backend()) == 'reference':
        prepared = cosine.reference
    else:
        prepared = cosine.CosineQKV.apply
    # A recorded graph serves maps that fill their windows and others.
    if not recording() and not (qkv.shape[1] % window_size or qkv.shape[2] % window_size):
        padding = None
    return shifted_window_attention(
        prepared(qkv, scale),
        bias,
        window_size=window_size,
        shift_size=shift_size,
        scale=1.0,
        padding=None if padding is None else prepared(padding, scale),
        dropout_p=dropout_p,
        backend=backend,
    )


def _check(
    qkv: Tensor, bias: Tensor, window_size: int, shift_size: int, padding: Tensor | None
) -> int:
    """Raises on what does not fit; the width of a head."""
    if qkv.dim() != 4 or bias.dim() != 3:
        raise ArgumentError(
            'qkv must be (B, H, W, 3C) and bias (heads, M², M²), '
            f'got {tuple(qkv.shape)} and {tuple(bias.shape)}'
        )
    heads, channels = bias.shape[0], qkv.shape[3]
    if channels % (3 * heads):
        raise ArgumentError(f'{channels} channels of qkv are not three times {heads} heads')
    if bias.shape[1] != window_size**2 or bias.shape[2] != window_size**2:
        raise ArgumentError(
            f'bias of shape {tuple(bias.shape)} does not fit window_size={window_size}: '
            f'expected ({heads}, {window_size**2}, {window_size**2})'
        )
    if not 0 <= shift_size < window_size:
        raise ArgumentError(
            f'shift_size={shift_size} must be at least 0 and below window_size={window_size}'
        )
    if padding is not None and padding.shape != (channels,):
        raise ArgumentError(f'padding must be ({channels},), got {tuple(padding.shape)}')
    return channels // (3 * heads)

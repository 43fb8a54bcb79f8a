"""Shifted-window self-attention on an un-partitioned feature map.

The entry point is :func:`shifted_window_attention`. ``reference.py`` is its definition, with which
all other backends must agree.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ..backends import checked, requested_backend
from ..dtypes import products_dtype
from ..recording import recording, tracing, transformed
from . import cosine, reference
from .dispatch import Choice, chosen, explain_backend
from .operator import IMPLEMENTATIONS, attention_op

__all__ = [
    'Choice',
    'explain_backend',
    'shifted_window_attention',
    'shifted_window_cosine_attention',
]

# Upper bound on the logarithm of the cosines' factor in the official V2: a temperature of 0.01.
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
        backend: One of :data:`~swin_backbone.ops.backends.BACKENDS`. If None, the backend that
            :func:`~swin_backbone.ops.backends.use_backend` or ``SWIN_BACKEND`` selects, else the
            fastest that can run. Only ``'reference'`` is differentiable twice.

    Returns:
        (B, H, W, C), in the dtype of ``qkv``; under autocast, in autocast's dtype.

    Raises:
        ArgumentError: Shapes or sizes do not match, or the requested backend cannot run.
    """
    head_dim = _check(qkv, bias, window_size, shift_size, padding)
    if (dtype := products_dtype(qkv)) != qkv.dtype:  # else exporters record a cast without effect
        qkv = qkv.to(dtype)
    options: dict[str, Any] = dict(
        window_size=window_size,
        shift_size=shift_size,
        scale=head_dim**-0.5 if scale is None else scale,
        padding=padding,
        dropout_p=dropout_p,
    )
    if tracing():
        name = 'indexed'
    elif transformed():
        name = 'reference'
    else:
        # The choice depends on these three cases only. They are constants for compilers, while the
        # attribute of a module is not.
        dropping = 0.0 if not dropout_p else 1.0 if dropout_p >= 1 else 0.5
        name = chosen(qkv.device, qkv.dtype, window_size, head_dim, dropping, backend)
    if name == 'reference':
        return reference.shifted_window_attention(qkv, bias, **options)
    if dropout_p or name == 'indexed':
        # The backward operator recomputes the weights and would have to draw the same dropout.
        attend = IMPLEMENTATIONS[name].attend
        assert attend is not None
        return attend(qkv, bias, **options)
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
    """:func:`shifted_window_attention` with cosines instead of dot products (V2, equation 2).

    Args:
        logit_scale: Logarithm of the factor on the cosines of each head, ``heads`` elements in
            any shape; clamped to ln 100.

    The other arguments are those of :func:`shifted_window_attention`. Norms of vectors are computed
    in float32 or wider.

    Raises:
        ArgumentError: Shapes or sizes do not match, or the requested backend cannot run.
    """
    _check(qkv, bias, window_size, shift_size, padding)
    if logit_scale.numel() != bias.shape[0]:
        raise ArgumentError(
            f'logit_scale of shape {tuple(logit_scale.shape)} must have an element for each of the '
            f'{bias.shape[0]} heads of bias'
        )
    exact = torch.promote_types(logit_scale.dtype, torch.float32)
    scale = logit_scale.flatten().to(exact).clamp(max=MAX_LOGIT_SCALE).exp()
    # Compilers and transforms fuse and differentiate the plain operators themselves.
    plain = recording() or transformed()
    if plain or (checked(backend, 'backend') or requested_backend()) == 'reference':
        prepared = cosine.reference
    else:
        prepared = cosine.CosineQKV.apply
    # A recorded graph must be valid for maps with and without padding.
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
    """Raises if shapes or sizes do not match. Returns the width of a head."""
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
    # The choice of a backend needs a constant; a compiler specializes a symbolic size here.
    return index(channels // (3 * heads))

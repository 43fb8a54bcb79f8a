"""Prepares queries and keys for scaled cosine attention (Swin V2), so that any backend can run it.

Source: Liu et al., Swin Transformer V2 (arXiv:2111.09883), section 3.2, equation 2. The similarity
of a query and a key is their cosine, divided by a learned temperature of the head. This is the dot
product of the normalised key with the normalised query times the inverse temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..sizes import unflatten

# Shorter vectors are divided by this instead of their norm; the default of F.normalize.
EPS = 1e-12


def reference(qkv: Tensor, scale: Tensor) -> Tensor:
    """The definition in plain PyTorch: queries of norm ``scale`` and keys of norm 1.

    Args:
        qkv: Queries, keys and values, (..., 3C), the channels ordered as (3, heads, C / heads).
        scale: Factor on the cosines, (heads,).

    Returns:
        A tensor like ``qkv``. Norms are computed in float32 or wider.
    """
    exact = torch.promote_types(qkv.dtype, torch.float32)
    q, k, v = unflatten(qkv, -1, (3, len(scale), -1)).unbind(-3)
    q = F.normalize(q.to(exact), dim=-1, eps=EPS) * scale[:, None]
    k = F.normalize(k.to(exact), dim=-1, eps=EPS)
    return torch.stack([q.to(qkv.dtype), k.to(qkv.dtype), v], -3).flatten(-3)


class CosineQKV(torch.autograd.Function):
    """:func:`reference` in one pass over ``qkv``; differentiable once.

    Saves its output, which attention saves too, and the norms: 1 / (C / heads) of its size.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor) -> Tensor:
        exact = torch.promote_types(qkv.dtype, torch.float32)
        heads_apart = qkv.unflatten(-1, (3, len(scale), -1))
        factor = heads_apart.new_ones(heads_apart.shape[:-1], dtype=exact)
        length = torch.linalg.vector_norm(heads_apart[..., :2, :, :], dim=-1, dtype=exact)
        factor[..., :2, :] = length.clamp_(min=EPS).reciprocal_()
        inverse = factor[..., :2, :].clone()
        factor[..., 0, :] *= scale
        out = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
        torch.mul(heads_apart, factor[..., None], out=out.view(heads_apart.shape))
        ctx.save_for_backward(out, inverse, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        out, inverse, scale = ctx.saved_tensors
        split = (3, len(scale), -1)
        unit, grad = out.unflatten(-1, split)[..., :2, :, :], grad.unflatten(-1, split)
        along = (grad[..., :2, :, :] * unit.to(inverse.dtype)).sum(-1)
        along[..., 0, :] /= scale  # for the query of norm 1
        d_scale = along[..., 0, :].reshape(-1, len(scale)).sum(0)
        # If the norm was clamped to EPS, the gradient along the vector's direction is kept.
        across = (along * inverse).masked_fill_(inverse >= 1 / EPS, 0)
        factor = torch.ones_like(grad[..., 0], dtype=inverse.dtype)
        factor[..., :2, :] = inverse
        factor[..., 0, :] *= scale
        d_qkv = torch.empty_like(out)
        d_heads = d_qkv.unflatten(-1, split)
        torch.mul(grad, factor[..., None], out=d_heads)
        d_heads[..., :2, :, :].addcmul_(unit, across[..., None].to(unit.dtype), value=-1)
        return d_qkv, d_scale.to(scale.dtype)

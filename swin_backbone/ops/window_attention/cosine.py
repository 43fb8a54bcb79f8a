"""Queries and keys for scaled cosine attention (Swin V2), which any backend then takes.

Source: Liu et al., Swin Transformer V2 (arXiv:2111.09883), section 3.2, equation 2: the similarity
of a query and a key is their cosine, divided by a learnt temperature of the head. Once they have
length 1, and the query that factor, it is their dot product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..sizes import unflatten

# Shorter vectors are divided by this instead of their length, as F.normalize does by default.
EPS = 1e-12


def reference(qkv: Tensor, scale: Tensor) -> Tensor:
    """The definition: queries of length ``scale`` and keys of length 1, in plain PyTorch.

    Args:
        qkv: Queries, keys and values, (..., 3C), the channels ordered as (3, heads, C / heads).
        scale: Factor on the cosines, (heads,).

    Returns:
        The like of ``qkv``; lengths are computed in float32 at least.
    """
    exact = torch.promote_types(qkv.dtype, torch.float32)
    q, k, v = unflatten(qkv, -1, (3, len(scale), -1)).unbind(-3)
    q = F.normalize(q.to(exact), dim=-1, eps=EPS) * scale[:, None]
    k = F.normalize(k.to(exact), dim=-1, eps=EPS)
    return torch.stack([q.to(qkv.dtype), k.to(qkv.dtype), v], -3).flatten(-3)


class CosineQKV(torch.autograd.Function):
    """:func:`reference` in one pass over ``qkv``; differentiable once.

    Keeps its output, which attention keeps anyway, and the lengths: 1 / (C / heads) of it.
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
        along[..., 0, :] /= scale  # of the query that has length 1
        d_scale = along[..., 0, :].reshape(-1, len(scale)).sum(0)
        # Where the length was EPS and not the vector's own, nothing is taken along its direction.
        across = (along * inverse).masked_fill_(inverse >= 1 / EPS, 0)
        factor = torch.ones_like(grad[..., 0], dtype=inverse.dtype)
        factor[..., :2, :] = inverse
        factor[..., 0, :] *= scale
        d_qkv = torch.empty_like(out)
        d_heads = d_qkv.unflatten(-1, split)
        torch.mul(grad, factor[..., None], out=d_heads)
        d_heads[..., :2, :, :].addcmul_(unit, across[..., None].to(unit.dtype), value=-1)
        return d_qkv, d_scale.to(scale.dtype)

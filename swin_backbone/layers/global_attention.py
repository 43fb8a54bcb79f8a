"""The layer that HTC++ appends to the last stage (Swin paper, appendix A2.2)."""

from __future__ import annotations

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.model.weight_init import constant_init, trunc_normal_init
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError
from ..ops.recording import tracing
from ..ops.sizes import unflatten
from .block import recomputed
from .from_config import build_norm
from .mlp import FFN


class GlobalAttentionBlock(BaseModule):
    """Self-attention among all tokens of a map and a feed-forward network, each normalised first.

    The block of equation 3 with the whole map as one window. It has no position bias, because a
    table would fix the map's size. It starts as the identity: a pretrained backbone, which has no
    such layer, first produces its pretrained features, and gradients reach both output projections
    from the first step.

    ``scaled_dot_product_attention`` uses a fused kernel on CPUs and GPUs, so that no (H * W) x
    (H * W) matrix is stored; on CPUs one is if ``attn_drop_rate`` is not 0.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads; must divide ``embed_dims``.
        feedforward_channels: Width of the feed-forward network's hidden layer.
        qkv_bias: Whether the query, key and value projection has a bias.
        qk_scale: Factor on the queries; (C / heads) ** -0.5 if None.
        drop_rate: Probability of dropping an element after each projection.
        attn_drop_rate: Probability of dropping an attention weight.
        drop_path_rate: Probability of dropping a path for a sample.
        act_cfg: Activation of the feed-forward network.
        norm_cfg: Normalisation.
        with_cp: What to recompute in the backward pass: True, ``'block'`` or ``'stage'`` for the
            whole block; ``'attention'`` or ``'mlp'`` for that half.
        init_cfg: mmengine's initialisers.

    Raises:
        ArgumentError: ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ArgumentError(f'num_heads={num_heads} does not divide the width {embed_dims}')
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5  # as in WindowMSA
        self.with_cp = with_cp
        self.attn_drop_rate = attn_drop_rate
        self.norm1 = build_norm(norm_cfg, embed_dims)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = build_norm(norm_cfg, embed_dims)
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            act_cfg=act_cfg,
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
        )
        # A checkpoint without the layer leaves it as it was built.
        self.init_weights()

    def init_weights(self) -> None:
        """Draws weights as the backbone does; the output projections start at 0."""
        hidden, output = self.ffn.layers[0][0], self.ffn.layers[1]
        for module in (self.qkv, hidden):
            trunc_normal_init(module, std=0.02, bias=0.0)
        for module in (self.proj, output):
            constant_init(module, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, C) to the same shape."""
        if self.with_cp in (True, 'block', 'stage'):
            return recomputed(self._layers, x)
        return self._layers(x)

    def _layers(self, x: Tensor) -> Tensor:
        for name, half in (('attention', self._attention), ('mlp', self._mlp)):
            x = recomputed(half, x) if self.with_cp == name else half(x)
        return x

    def _attention(self, x: Tensor) -> Tensor:
        # (B, L, 3 C) -> (3, B, heads, L, C / heads)
        qkv = unflatten(self.qkv(self.norm1(x)), 2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        dropout = self.attn_drop_rate if self.training else 0.0
        # TorchScript's ONNX exporter has no fused attention before opset 14.
        if tracing() and torch.onnx.is_in_onnx_export():
            attended = F.dropout((q * self.scale @ k.transpose(2, 3)).softmax(-1), dropout) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return x + self.drop_path(self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2))))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.ffn(self.norm2(x), identity=x)

"""The feed-forward half of a block."""

from __future__ import annotations

from typing import Any

from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from .from_config import build_activation


class FFN(BaseModule):
    """Two linear layers with an activation between them, added to the identity (equation 3).

    In V2, where a norm comes between, they are not added here.

    Args:
        embed_dims: Width C of a token.
        feedforward_channels: Width of the hidden layer.
        act_cfg: Activation.
        ffn_drop: Probability of dropping an element after each linear layer.
        drop_path: Probability of dropping the whole path for a sample.
        add_identity: Whether the result is added to the identity.
        init_cfg: As for every mmengine module.
    """

    layers: Any  # nn.Sequential, whose items torch's types take for bare modules

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        act_cfg: dict = dict(type='GELU'),
        ffn_drop: float = 0.0,
        drop_path: float = 0.0,
        add_identity: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        hidden = nn.Sequential(
            nn.Linear(embed_dims, feedforward_channels),
            build_activation(act_cfg),
            nn.Dropout(ffn_drop),
        )
        # The nesting is that of mmcv's FFN, whose key names checkpoints carry.
        self.layers = nn.Sequential(
            hidden, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(ffn_drop)
        )
        self.dropout_layer = DropPath(drop_path)
        self.add_identity = add_identity

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); ``identity`` is what the path is added to, ``x`` if None."""
        out = self.dropout_layer(self.layers(x))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


class PostNormFFN(FFN):
    """As V2 has it: ``dropout_layer`` is applied by the block, after the norm that follows."""

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C), not added to anything; ``identity`` has no effect."""
        return self.layers(x)

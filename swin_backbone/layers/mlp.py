"""The feed-forward half of a block."""

from __future__ import annotations

from mmcv.cnn import build_activation_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn


class FFN(BaseModule):
    """Two linear layers with an activation between them, added to the identity (equation 3).

    Args:
        embed_dims: Width C of a token.
        feedforward_channels: Width of the hidden layer.
        act_cfg: Activation.
        ffn_drop: Probability of dropping an element after each linear layer.
        drop_path: Probability of dropping the whole path for a sample.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        act_cfg: dict = dict(type='GELU'),
        ffn_drop: float = 0.0,
        drop_path: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        hidden = nn.Sequential(
            nn.Linear(embed_dims, feedforward_channels),
            build_activation_layer(act_cfg),
            nn.Dropout(ffn_drop),
        )
        # The nesting is that of mmcv's FFN, whose key names checkpoints carry.
        self.layers = nn.Sequential(
            hidden, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(ffn_drop)
        )
        self.dropout_layer = DropPath(drop_path)

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); ``identity`` is what the path is added to, ``x`` if None."""
        return (x if identity is None else identity) + self.dropout_layer(self.layers(x))

"""The feed-forward half of a block."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..argument_values import integer
from .from_config import build_activation, build_dropout


class FFN(BaseModule):
    """Linear layers with an activation between them, added to the identity (equation 3).

    The arguments, their defaults and the state dict are mmcv's.

    Args:
        embed_dims: Width C of a token.
        feedforward_channels: Width of the hidden layers.
        num_fcs: Linear layers, 2 or more.
        act_cfg: Activation.
        ffn_drop: Probability of dropping an element after each linear layer.
        dropout_layer: Applied to the result before it is added, e.g. drop path.
        add_identity: Whether the result is added to the identity.
        init_cfg: mmengine's initialisers.
        layer_scale_init_value: Initial value of a learnt factor for each channel of the result; 0
            for none.
    """

    layers: Any  # nn.Sequential, whose items torch's types take for bare modules

    def __init__(
        self,
        embed_dims: int = 256,
        feedforward_channels: int = 1024,
        num_fcs: int = 2,
        act_cfg: dict = dict(type='ReLU', inplace=True),
        ffn_drop: float = 0.0,
        dropout_layer: dict | None = None,
        add_identity: bool = True,
        init_cfg: dict | None = None,
        layer_scale_init_value: float = 0.0,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.feedforward_channels = feedforward_channels
        self.num_fcs = integer('num_fcs', num_fcs, 2)
        layers: list[nn.Module] = []
        for width in [embed_dims] + [feedforward_channels] * (num_fcs - 2):
            layers.append(
                nn.Sequential(
                    nn.Linear(width, feedforward_channels),
                    build_activation(act_cfg),
                    nn.Dropout(ffn_drop),
                )
            )
        # The nesting is that of mmcv's FFN, whose key names checkpoints carry.
        self.layers = nn.Sequential(
            *layers, nn.Linear(feedforward_channels, embed_dims), nn.Dropout(ffn_drop)
        )
        self.dropout_layer = build_dropout(dropout_layer)
        self.add_identity = add_identity
        self.gamma2: nn.Module = nn.Identity()
        if layer_scale_init_value > 0:
            from mmcv.cnn.bricks.scale import LayerScale  # not in the oldest mmcv 2

            self.gamma2 = LayerScale(embed_dims, scale=layer_scale_init_value)

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); the path is added to ``identity``, or to ``x`` if None."""
        out = self.dropout_layer(self.gamma2(self.layers(x)))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


class PostNormFFN(FFN):
    """V2's FFN: the block applies ``dropout_layer`` and the addition, after its norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_identity = False

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C), without the addition; ``identity`` has no effect."""
        return self.gamma2(self.layers(x))

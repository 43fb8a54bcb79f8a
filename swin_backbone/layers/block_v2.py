"""Blocks and stages of Swin V2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops.post_norm import FeedForward, Norm, feed_forward, norm_add
from ..ops.recording import is_hooked
from .attention_v2 import ShiftWindowMSAV2, WindowMSAV2
from .block import Grid, Stage, path_factors, recomputed
from .from_config import build_norm
from .in_one_piece import why_paths_not_in_one_piece
from .merging import PatchMerging
from .mlp import PostNormFFN


class SwinBlockV2(BaseModule):
    """Window attention and a feed-forward network, each normalised before it is added (figure 1).

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        feedforward_channels: Width of the feed-forward network's hidden layer.
        window_size: Side of a window, in tokens.
        shift: Whether the windows are shifted, by half their side.
        pretrained_window_size: As for :class:`WindowMSAV2`.
        extra_norm: Whether the sum is normalised at the end, too, as in some blocks of the largest
            variants (section 3.2).
        qkv_bias: Whether the queries' and the values' projection have a bias.
        drop_rate: Probability of dropping an element after each projection.
        attn_drop_rate: Probability of dropping an attention weight.
        drop_path_rate: Probability of dropping a path for a sample.
        act_cfg: Activation of the feed-forward network.
        norm_cfg: Normalisation.
        with_cp: What to recompute in the backward pass, which saves memory: True or ``'block'``,
            the block; ``'attention'`` or ``'mlp'``, that half of it.
        init_cfg: As for every mmengine module.
        pad_small_map: As for :class:`ShiftedWindows`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        window_size: int = 7,
        shift: bool = False,
        pretrained_window_size: int = 0,
        extra_norm: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        self.extra_norm = extra_norm
        self.attn = ShiftWindowMSAV2(
            embed_dims,
            num_heads,
            window_size,
            shift_size=window_size // 2 if shift else 0,
            pretrained_window_size=pretrained_window_size,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
            pad_small_map=pad_small_map,
        )
        self.norm1 = build_norm(norm_cfg, embed_dims)
        self.ffn = PostNormFFN(
            embed_dims,
            feedforward_channels,
            act_cfg=act_cfg,
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
            add_identity=False,
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)
        self.norm3 = build_norm(norm_cfg, embed_dims) if extra_norm else None

    def forward(self, x: Tensor, hw_shape: Grid, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape.

        ``bias`` is :meth:`early_bias`, where that has been computed before.
        """
        if bias is None and self.with_cp:
            bias = self.early_bias(hw_shape)
        if self.with_cp in (True, 'block'):
            return recomputed(self._halves, x, hw_shape, bias)
        return self._halves(x, hw_shape, bias)

    forward_as_defined = forward

    def early_bias(self, hw_shape: Grid) -> Tensor | None:
        """The attention's position bias, which is not computed again where the block is.

        None where the attention is another's, replaced or hooked: it takes two arguments.
        """
        kind = type(self.attn)
        if (
            not isinstance(self.attn, ShiftWindowMSAV2)
            or kind.forward is not kind.forward_as_defined
            or not isinstance(self.attn.w_msa, WindowMSAV2)
            or is_hooked(self.attn)
        ):
            return None
        return self.attn.relative_position_bias(hw_shape)

    def _halves(self, x: Tensor, hw_shape: Grid, bias: Tensor | None) -> Tensor:
        if self.with_cp == 'attention':
            x = recomputed(self._attention, x, hw_shape, bias)
        else:
            x = self._attention(x, hw_shape, bias)
        x = recomputed(self._mlp, x) if self.with_cp == 'mlp' else self._mlp(x)
        return x if self.norm3 is None else self.norm3(x)

    def _attention(self, x: Tensor, hw_shape: Grid, bias: Tensor | None = None) -> Tensor:
        path = self.attn(x, hw_shape) if bias is None else self.attn(x, hw_shape, bias)
        if why_paths_not_in_one_piece(self, x) is None:
            return norm_add(x, path, _norm(self.norm1), _path_factors(self.attn.drop, x))
        return x + _drop_within(self.attn, ShiftWindowMSAV2, 'drop')(self.norm1(path))

    def _mlp(self, x: Tensor) -> Tensor:
        if why_paths_not_in_one_piece(self, x) is None:
            (fc1, *_), fc2 = self.ffn.layers[:2]
            weights = fc1.weight, fc1.bias, fc2.weight, fc2.bias
            factors = _path_factors(self.ffn.dropout_layer, x)
            return feed_forward(x, FeedForward(*weights, _norm(self.norm2)), factors)
        drop = _drop_within(self.ffn, PostNormFFN, 'dropout_layer')
        return x + drop(self.norm2(self.ffn(x)))


def _path_factors(drop: Any, x: Tensor) -> Tensor | None:
    """What drop path multiplies each sample's path with, (B,), in float32 at least."""
    if not (drop.training and drop.drop_prob):
        return None
    # Drawn in the dtype that a norm's output would have.
    return path_factors(drop, x, x.dtype)


def _takes_bias(block: Any) -> bool:
    """Whether a block takes a third argument without anybody seeing it."""
    kind = type(block)
    usual = isinstance(block, SwinBlockV2) and kind.forward is kind.forward_as_defined
    return usual and not is_hooked(block)


def _drop_within(module: nn.Module, kind: type, name: str) -> Callable[[Tensor], Tensor]:
    """The drop path that the block applies for a module, which may be a wrapper's own module.

    Nothing for another's module, which applies its own.
    """
    ours = next((inner for inner in module.modules() if isinstance(inner, kind)), None)
    return _same if ours is None else getattr(ours, name)


def _same(x: Tensor) -> Tensor:
    return x


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.bias, module.eps)


class SwinBlockV2Sequence(Stage):
    """One stage: maybe a downsampling, then blocks with plain and shifted windows in turn.

    Args:
        embed_dims: Width C of the tokens that it is given.
        num_heads: Attention heads.
        feedforward_channels: Width of the feed-forward networks' hidden layer.
        depth: Number of blocks.
        drop_path_rate: Probability of dropping a path for a sample, one for all or one a block.
        downsample: What makes this stage's tokens of those, or None.
        extra_norm_every_n_blocks: Which blocks have an extra norm; 0 for none.
        window_size, pretrained_window_size, qkv_bias, drop_rate, attn_drop_rate, act_cfg, norm_cfg,
            with_cp, pad_small_map: As for :class:`SwinBlockV2`.
        init_cfg: As for every mmengine module.
    """

    opens_with_downsample = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        depth: int,
        window_size: int = 7,
        pretrained_window_size: int = 0,
        extra_norm_every_n_blocks: int = 0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float | Sequence[float] = 0.0,
        downsample: PatchMerging | None = None,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = False,
    ) -> None:
        every = extra_norm_every_n_blocks
        width = embed_dims if downsample is None else downsample.out_channels
        rates = drop_path_rate if isinstance(drop_path_rate, Sequence) else [drop_path_rate] * depth
        blocks = [
            SwinBlockV2(
                width,
                num_heads,
                feedforward_channels,
                window_size=window_size,
                shift=i % 2 == 1,
                pretrained_window_size=pretrained_window_size,
                extra_norm=every > 0 and (i + 1) % every == 0,
                qkv_bias=qkv_bias,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                drop_path_rate=rates[i],
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
                pad_small_map=pad_small_map,
            )
            for i in range(depth)
        ]
        super().__init__(embed_dims, blocks, downsample, with_cp, init_cfg)

    def forward(self, x: Tensor, in_shape: Grid) -> tuple[Tensor, Grid]:
        """Tokens of a map to the stage's own.

        Args:
            x: Tokens (B, H * W, C).
            in_shape: (H, W).

        Returns:
            Tokens (B, H' * W', C') and their grid (H', W'), which are C and (H, W) without a
            downsampling.
        """
        if self.downsample is not None:
            x, in_shape = self.downsample(x, in_shape)
        return self.through_blocks(x, in_shape), in_shape

    def through_blocks(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        if self.with_cp != 'stage':
            return super().through_blocks(x, hw_shape)
        biases = [
            block.early_bias(hw_shape) if _takes_bias(block) else None for block in self.blocks
        ]
        return recomputed(self._blocks, x, hw_shape, biases)

    def _blocks(self, x: Tensor, hw_shape: Grid, biases: Sequence[Tensor | None] = ()) -> Tensor:
        for block, bias in zip_longest(self.blocks, biases):
            x = block(x, hw_shape) if bias is None else block(x, hw_shape, bias)
        return x

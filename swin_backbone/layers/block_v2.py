"""Blocks and stages of Swin V2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from ..ops.post_norm import FeedForward, Norm, feed_forward, norm_add
from ..ops.recording import is_hooked
from ..options import BlockOptions, BlockOptionsV2, takes_options
from .attention_v2 import ShiftWindowMSAV2, WindowMSAV2
from .block import Grid, SwinBlock, SwinBlockSequence, path_factors, recomputed
from .from_config import build_norm
from .fused import why_paths_unfused
from .merging import PatchMerging
from .mlp import PostNormFFN


class SwinBlockV2(SwinBlock):
    """Window attention and a feed-forward network, each normalised before it is added (figure 1).

    Takes :class:`SwinBlock`'s arguments except ``qk_scale``.

    Args:
        extra_norm: Whether the output is normalised as well, as in some blocks of the largest
            variants (section 3.2).
        pretrained_window_size: See :class:`WindowMSAV2`.
    """

    attention_type = ShiftWindowMSAV2
    ffn_type = PostNormFFN
    modules_in_order = ('attn', 'norm1', 'ffn', 'norm2')

    @takes_options(
        BlockOptionsV2,
        'embed_dims num_heads feedforward_channels window_size shift pretrained_window_size '
        'extra_norm qkv_bias drop_rate attn_drop_rate drop_path_rate act_cfg norm_cfg with_cp '
        'init_cfg',
    )
    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        shift: bool = False,
        drop_path_rate: float = 0.0,
        extra_norm: bool = False,
        init_cfg: dict | None = None,
        *,
        options: BlockOptions,
    ) -> None:
        super().__init__(
            *(embed_dims, num_heads, feedforward_channels),
            shift=shift,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
            options=options,
        )
        self.extra_norm, self.norm3 = False, None
        if extra_norm:
            self.add_extra_norm(options.norm_cfg)

    def add_extra_norm(self, norm_cfg: dict) -> None:
        """Adds a norm of the output, ``norm3``."""
        self.extra_norm = True
        self.norm3 = build_norm(norm_cfg, self.attn.w_msa.embed_dims)

    def forward(self, x: Tensor, hw_shape: Grid, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape.

        ``bias`` is :meth:`early_bias`, if it has been computed before.
        """
        if bias is None and self.with_cp:
            bias = self.early_bias(hw_shape)
        if self.with_cp in (True, 'block'):
            return recomputed(self._halves, x, hw_shape, bias)
        return self._halves(x, hw_shape, bias)

    forward_as_defined = forward

    def early_bias(self, hw_shape: Grid) -> Tensor | None:
        """The attention's position bias, computed outside the part that is recomputed.

        None if the attention module is foreign, replaced or hooked: it takes two arguments then.
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
        if why_paths_unfused(self, x) is None:
            return norm_add(x, path, _norm(self.norm1), _path_factors(self.attn.drop, x))
        return x + _drop_within(self.attn, ShiftWindowMSAV2, 'drop')(self.norm1(path))

    def _mlp(self, x: Tensor) -> Tensor:
        if why_paths_unfused(self, x) is None:
            (fc1, *_), fc2 = self.ffn.layers[:2]
            weights = fc1.weight, fc1.bias, fc2.weight, fc2.bias
            factors = _path_factors(self.ffn.dropout_layer, x)
            return feed_forward(x, FeedForward(*weights, _norm(self.norm2)), factors)
        drop = _drop_within(self.ffn, PostNormFFN, 'dropout_layer')
        return x + drop(self.norm2(self.ffn(x)))


def _path_factors(drop: Any, x: Tensor) -> Tensor | None:
    """Drop path's factor for each sample's path, (B,), in float32 or wider; None for none."""
    if not (drop.training and drop.drop_prob):
        return None
    # The draw is in the dtype of a norm's output.
    return path_factors(drop, x, x.dtype)


def _takes_bias(block: Any) -> bool:
    """Whether a block can be passed a third argument that no hook or subclass sees."""
    kind = type(block)
    usual = isinstance(block, SwinBlockV2) and kind.forward is kind.forward_as_defined
    return usual and not is_hooked(block)


def _drop_within(module: nn.Module, kind: type, name: str) -> Callable[[Tensor], Tensor]:
    """The drop path that the block applies for a module, which may be a wrapper around ours.

    The identity for a foreign module, which applies its own.
    """
    ours = next((inner for inner in module.modules() if isinstance(inner, kind)), None)
    return _same if ours is None else getattr(ours, name)


def _same(x: Tensor) -> Tensor:
    return x


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.bias, module.eps)


class SwinBlockV2Sequence(SwinBlockSequence):
    """One stage: an optional downsampling, then blocks with regular and shifted windows in turn.

    Takes :class:`SwinBlockSequence`'s arguments except ``qk_scale``.

    Args:
        embed_dims: Width C of the input tokens.
        downsample: Makes this stage's tokens from the input; None for none.
        extra_norm_every_n_blocks: Every n-th block has an extra norm; 0 for none.
        pretrained_window_size: See :class:`WindowMSAV2`.
    """

    block_type = SwinBlockV2
    opens_with_downsample = True

    @takes_options(
        BlockOptionsV2,
        'embed_dims num_heads feedforward_channels depth window_size pretrained_window_size '
        'extra_norm_every_n_blocks qkv_bias drop_rate attn_drop_rate drop_path_rate downsample '
        'act_cfg norm_cfg with_cp init_cfg',
    )
    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        depth: int,
        drop_path_rate: float | Sequence[float] = 0.0,
        downsample: PatchMerging | None = None,
        extra_norm_every_n_blocks: int = 0,
        init_cfg: dict | None = None,
        *,
        options: BlockOptions,
    ) -> None:
        super().__init__(
            *(embed_dims, num_heads, feedforward_channels, depth),
            drop_path_rate=drop_path_rate,
            downsample=downsample,
            init_cfg=init_cfg,
            options=options,
        )
        every = extra_norm_every_n_blocks
        for block in self.blocks[every - 1 :: every] if every else ():
            block.add_extra_norm(options.norm_cfg)

    def forward(  # type: ignore[override] # two results, as mmpretrain's
        self, x: Tensor, in_shape: Grid
    ) -> tuple[Tensor, Grid]:
        """Tokens of a map to the stage's own.

        Args:
            x: Tokens (B, H * W, C).
            in_shape: (H, W).

        Returns:
            Tokens (B, H' * W', C') and their grid (H', W'); C and (H, W) without a downsampling.
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

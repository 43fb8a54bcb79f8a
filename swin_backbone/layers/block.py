"""Blocks and stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.backends import requested_backend, use_backend
from ..ops.block import Options, Parameters, swin_block
from ..ops.dtypes import products_dtype
from ..ops.recording import compiling
from ..options import BlockOptions, BlockOptionsV1, takes_options
from .attention import ShiftWindowMSA
from .from_config import build_norm
from .fused import why_block_unfused
from .merging import PatchMerging
from .mlp import FFN

Grid = tuple[int, int]


def recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """``function(*args)``; the backward pass recomputes it from the arguments."""
    if not torch.is_grad_enabled():
        return function(*args)
    if compiling():  # a compiled graph keeps its backend
        return checkpoint(function, *args, use_reentrant=False)
    backend = requested_backend()

    def on_the_same_backend(*args: Any) -> Tensor:
        with use_backend(backend):
            return function(*args)

    return checkpoint(on_the_same_backend, *args, use_reentrant=False)


class SwinBlock(BaseModule):
    """Window attention and a feed-forward network, each normalised first (equation 3).

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        feedforward_channels: Width of the feed-forward network's hidden layer.
        window_size: Side of a window, in tokens.
        shift: Whether the windows are shifted, by half their side.
        qkv_bias: Whether the query, key and value projection has a bias.
        qk_scale: Factor on the queries; (C / heads) ** -0.5 if None.
        drop_rate: Probability of dropping an element after each projection.
        attn_drop_rate: Probability of dropping an attention weight.
        drop_path_rate: Probability of dropping a path for a sample.
        act_cfg: Activation of the feed-forward network.
        norm_cfg: Normalisation.
        with_cp: What to recompute in the backward pass, which saves memory: True or ``'block'``,
            the block; ``'attention'`` or ``'mlp'``, that half of it.
        init_cfg: mmengine's initialisers.
        pad_small_map: See :class:`ShiftWindowMSA`; keyword-only.
        options: A :class:`~swin_backbone.options.BlockOptions`, in place of the arguments of the
            same names; keyword-only.
    """

    attention_type: ClassVar[type[BaseModule]] = ShiftWindowMSA
    ffn_type: ClassVar[type[FFN]] = FFN
    # Registration order, which is the order of parameters in an optimizer's state.
    modules_in_order: ClassVar[tuple[str, ...]] = ('norm1', 'attn', 'norm2', 'ffn')

    @takes_options(
        BlockOptionsV1,
        'embed_dims num_heads feedforward_channels window_size shift qkv_bias qk_scale drop_rate '
        'attn_drop_rate drop_path_rate act_cfg norm_cfg with_cp init_cfg',
    )
    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        shift: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
        *,
        options: BlockOptions,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = options.with_cp
        drop_path = dict(type='DropPath', drop_prob=drop_path_rate)
        attention = self.attention_type(
            embed_dims,
            num_heads,
            shift_size=options.window_size // 2 if shift else 0,
            proj_drop_rate=options.drop_rate,
            dropout_layer=drop_path,
            **options.accepted_by(self.attention_type),
        )
        ffn = self.ffn_type(
            embed_dims,
            feedforward_channels,
            act_cfg=options.act_cfg,
            ffn_drop=options.drop_rate,
            dropout_layer=drop_path,
        )
        norm1, norm2 = (build_norm(options.norm_cfg, embed_dims) for _ in range(2))
        made = dict(norm1=norm1, attn=attention, norm2=norm2, ffn=ffn)
        for name in self.modules_in_order:
            self.add_module(name, made[name])

    def forward(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        if why_block_unfused(self, x, hw_shape) is None:
            return self._fused(x, hw_shape)  # recomputes by itself
        if self.with_cp in (True, 'block'):
            return recomputed(self._unfused, x, hw_shape)
        return self._unfused(x, hw_shape)

    def _unfused(self, x: Tensor, hw_shape: Grid) -> Tensor:
        if self.with_cp == 'attention':
            x = recomputed(self._attention, x, hw_shape)
        else:
            x = self._attention(x, hw_shape)
        return recomputed(self._mlp, x) if self.with_cp == 'mlp' else self._mlp(x)

    def _attention(self, x: Tensor, hw_shape: Grid) -> Tensor:
        return x + self.attn(self.norm1(x), hw_shape)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.ffn(self.norm2(x), identity=x)

    def _fused(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """The block as one operator: no module is called; random draws are the same."""
        attention = self.attn.w_msa
        (fc1, *_), fc2 = self.ffn.layers[:2]
        window_size, shift_size = self.attn.windows(hw_shape)
        parameters = Parameters(
            *(self.norm1.weight, self.norm1.bias),
            *(attention.qkv.weight, attention.qkv.bias),
            attention.relative_position_bias(window_size),
            *(attention.proj.weight, attention.proj.bias),
            *(self.norm2.weight, self.norm2.bias),
            *(fc1.weight, fc1.bias),
            *(fc2.weight, fc2.bias),
        )
        options = Options(
            window_size,
            shift_size,
            attention.scale,
            self.norm1.eps,
            self.norm2.eps,
        )
        drops = self.attn.drop, self.ffn.dropout_layer
        factors = None
        if any(drop.training and drop.drop_prob for drop in drops):
            dtype = products_dtype(x)
            factors = torch.stack([path_factors(drop, x, dtype) for drop in drops])
        x = x.unflatten(1, hw_shape)
        return swin_block(x, parameters, options, factors, self.with_cp).flatten(1, 2)


def path_factors(drop: DropPath, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Drop path's factor for each sample's path, (B,), in float32 or wider.

    The draw is the module's, in the ``dtype`` that the path of tokens ``x`` has, but the factors
    are not rounded to it.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    if not (drop.training and drop.drop_prob):
        return x.new_ones(len(x), dtype=exact)
    keep = 1 - drop.drop_prob
    draws = torch.rand(len(x), dtype=dtype, device=x.device)
    return draws.add_(keep).floor_().to(exact).div_(keep)


class SwinBlockSequence(BaseModule):
    """One stage: blocks with regular and shifted windows in turn, then an optional downsampling.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        feedforward_channels: Width of the feed-forward networks' hidden layer.
        depth: Number of blocks.
        drop_path_rate: Probability of dropping a path for a sample, one for all or one per block.
        downsample: Makes the next stage's tokens; None for none.
        window_size, qkv_bias, qk_scale, drop_rate, attn_drop_rate, act_cfg, norm_cfg,
            pad_small_map, options: See :class:`SwinBlock`.
        with_cp: See :class:`SwinBlock`; ``'stage'`` recomputes all blocks together.
        init_cfg: mmengine's initialisers.

    Attributes:
        is_last: Whether the next stage's tokens are not needed: the downsampling does not run.
    """

    block_type: ClassVar[type[SwinBlock]] = SwinBlock
    # Modules are registered in the order in which they run, which is the order of parameters in an
    # optimizer's state.
    opens_with_downsample: ClassVar[bool] = False
    is_last = False

    @takes_options(
        BlockOptionsV1,
        'embed_dims num_heads feedforward_channels depth window_size qkv_bias qk_scale drop_rate '
        'attn_drop_rate drop_path_rate downsample act_cfg norm_cfg with_cp init_cfg',
    )
    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        depth: int,
        drop_path_rate: float | Sequence[float] = 0.0,
        downsample: PatchMerging | None = None,
        init_cfg: dict | None = None,
        *,
        options: BlockOptions,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.with_cp = options.with_cp
        if self.opens_with_downsample:
            self.downsample = downsample
        rates = drop_path_rate if isinstance(drop_path_rate, Sequence) else [drop_path_rate] * depth
        width = self.out_channels if self.opens_with_downsample else embed_dims
        self.blocks = ModuleList(
            self.block_type(
                width,
                num_heads,
                feedforward_channels,
                shift=i % 2 == 1,
                drop_path_rate=rates[i],
                **vars(options),
            )
            for i in range(depth)
        )
        if not self.opens_with_downsample:
            self.downsample = downsample

    @property
    def out_channels(self) -> int:
        """Width of the tokens after the downsampling."""
        return self.embed_dims if self.downsample is None else self.downsample.out_channels

    def forward(self, x: Tensor, hw_shape: Grid) -> tuple[Tensor, Grid, Tensor, Grid]:
        """Tokens (B, H * W, C) of a map (H, W) through the stage.

        Args:
            x: The tokens.
            hw_shape: (H, W).

        Returns:
            The next stage's tokens (B, H' * W', C') and grid (H', W'), then this stage's tokens
            (B, H * W, C) and grid (H, W). Without a downsampling the two are the same.
        """
        x = self.through_blocks(x, hw_shape)
        if self.downsample is None or self.is_last:
            return x, hw_shape, x, hw_shape
        return *self.downsample(x, hw_shape), x, hw_shape

    def through_blocks(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        if self.with_cp == 'stage':
            return recomputed(self._blocks, x, hw_shape)
        return self._blocks(x, hw_shape)

    def _blocks(self, x: Tensor, hw_shape: Grid) -> Tensor:
        for block in self.blocks:
            x = block(x, hw_shape)
        return x

"""Blocks and stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ops.backends import requested_backend, use_backend
from ..ops.block import Options, Parameters, swin_block
from ..ops.dtypes import products_dtype
from .attention import ShiftWindowMSA
from .from_config import build_norm
from .in_one_piece import why_block_not_in_one_piece
from .merging import PatchMerging
from .mlp import FFN

Grid = tuple[int, int]

# What `with_cp` takes: what is computed again in the backward pass. True is 'block'.
RECOMPUTABLE: tuple[bool | str, ...] = (False, True, 'attention', 'mlp', 'block', 'stage')


def recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """``function(*args)``, with nothing kept for the backward pass but the arguments."""
    if not torch.is_grad_enabled():
        return function(*args)
    if torch.compiler.is_compiling():  # which keeps the backend of its own accord
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
        init_cfg: As for every mmengine module.
        pad_small_map: As for :class:`ShiftWindowMSA`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        window_size: int = 7,
        shift: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = True,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        self.norm1 = build_norm(norm_cfg, embed_dims)
        self.attn = ShiftWindowMSA(
            embed_dims,
            num_heads,
            window_size,
            shift_size=window_size // 2 if shift else 0,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
            pad_small_map=pad_small_map,
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            act_cfg=act_cfg,
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
        )

    def forward(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        if why_block_not_in_one_piece(self, x, hw_shape) is None:
            return self._in_one_piece(x, hw_shape)  # which recomputes of itself
        if self.with_cp in (True, 'block'):
            return recomputed(self._by_modules, x, hw_shape)
        return self._by_modules(x, hw_shape)

    def _by_modules(self, x: Tensor, hw_shape: Grid) -> Tensor:
        if self.with_cp == 'attention':
            x = recomputed(self._attention, x, hw_shape)
        else:
            x = self._attention(x, hw_shape)
        return recomputed(self._mlp, x) if self.with_cp == 'mlp' else self._mlp(x)

    def _attention(self, x: Tensor, hw_shape: Grid) -> Tensor:
        return x + self.attn(self.norm1(x), hw_shape)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.ffn(self.norm2(x), identity=x)

    def _in_one_piece(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """The same without calling the modules, and with the same random draws."""
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
    """What drop path multiplies each sample's path with, (B,), in float32 at least.

    Drawn as the module draws, in the ``dtype`` that the path of tokens ``x`` would have, but not
    rounded to it.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    if not (drop.training and drop.drop_prob):
        return x.new_ones(len(x), dtype=exact)
    keep = 1 - drop.drop_prob
    draws = torch.rand(len(x), dtype=dtype, device=x.device)
    return draws.add_(keep).floor_().to(exact).div_(keep)


class Stage(BaseModule):
    """Blocks, and maybe a downsampling before or after them; subclasses have the forward.

    Args:
        embed_dims: Width C of the tokens that it is given.
        blocks: Each takes tokens and their grid, and returns tokens.
        downsample: What makes this stage's tokens in V2, and the next stage's in V1; or None.
        with_cp: ``'stage'`` recomputes all blocks together in the backward pass.
        init_cfg: As for every mmengine module.
    """

    # Whether the downsampling comes before the blocks. Modules are registered in the order that
    # they run in, which is the order of the parameters in an optimizer's state.
    opens_with_downsample: ClassVar[bool] = False

    def __init__(
        self,
        embed_dims: int,
        blocks: Iterable[BaseModule],
        downsample: PatchMerging | None,
        with_cp: bool | str,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        if self.opens_with_downsample:
            self.downsample = downsample
            self.blocks = ModuleList(blocks)
        else:
            self.blocks = ModuleList(blocks)
            self.downsample = downsample
        self.with_cp = with_cp

    @property
    def out_channels(self) -> int:
        """Width of the tokens that the next stage is given."""
        return self.embed_dims if self.downsample is None else self.downsample.out_channels

    def through_blocks(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        if self.with_cp == 'stage':
            return recomputed(self._blocks, x, hw_shape)
        return self._blocks(x, hw_shape)

    def _blocks(self, x: Tensor, hw_shape: Grid) -> Tensor:
        for block in self.blocks:
            x = block(x, hw_shape)
        return x


class SwinBlockSequence(Stage):
    """One stage: blocks with plain and shifted windows in turn, then, maybe, a downsampling.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        feedforward_channels: Width of the feed-forward networks' hidden layer.
        depth: Number of blocks.
        drop_path_rate: Probability of dropping a path for a sample, one for all or one a block.
        downsample: What makes the next stage's tokens, or None.
        window_size, qkv_bias, qk_scale, drop_rate, attn_drop_rate, act_cfg, norm_cfg, with_cp,
            pad_small_map: As for :class:`SwinBlock`.
        init_cfg: As for every mmengine module.

    Attributes:
        is_last: Whether nobody needs the next stage's tokens: the downsampling does not run.
    """

    is_last = False

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        depth: int,
        window_size: int = 7,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float | Sequence[float] = 0.0,
        downsample: PatchMerging | None = None,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = True,
    ) -> None:
        rates = drop_path_rate if isinstance(drop_path_rate, Sequence) else [drop_path_rate] * depth
        blocks = [
            SwinBlock(
                embed_dims,
                num_heads,
                feedforward_channels,
                window_size=window_size,
                shift=i % 2 == 1,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
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

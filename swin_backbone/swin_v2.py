"""Swin Transformer V2: Liu et al., CVPR 2022, arXiv:2111.09883."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from .argument_values import (
    LARGEST_COUNT,
    LARGEST_WINDOW,
    flag,
    integer,
    shown,
    window_side,
)
from .arguments import named_arguments
from .backbone import Backbone
from .errors import ArgumentError
from .layers import GlobalAttentionBlock, PatchMerging, SwinBlockV2, SwinBlockV2Sequence
from .swin import VARIANTS as V1_VARIANTS

# The paper's variants (section 4.1). It does not say how many heads the largest two have: theirs
# are 32 wide, as all others', and as H's are in microsoft/MIM-Depth-Estimation.
_HUGE = dict(
    embed_dims=352, depths=(2, 2, 18, 2), num_heads=(11, 22, 44, 88), extra_norm_every_n_blocks=6
)
_GIANT = dict(
    embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every_n_blocks=6
)
VARIANTS = {**V1_VARIANTS, **{'huge': _HUGE, 'giant': _GIANT}, **{'h': _HUGE, 'g': _GIANT}}


class SwinTransformerV2(Backbone):
    """Swin Transformer V2 backbone: feature maps at strides 4, 8, 16 and 32.

    As :class:`~swin_backbone.SwinTransformer` and with its arguments, but attention is by scaled
    cosines and so takes no ``qk_scale``, the position bias comes from a network and so serves
    windows of any size, and norms stand after attention, feed-forward network and patch merging.

    Modules and state dict are those of mmpretrain's class of that name: a patch merging opens a
    stage (``stages.1.downsample`` is before ``stages.1.blocks``), where V1's closes one. From
    scratch the norms of a block's two paths start at 0, as in the official code, so that each block
    is the identity at first; mmpretrain's start at 1.

    Args:
        window_size: Side M of the attention windows in tokens, or (M, M), one for all stages or one
            each; up to 128, as for V1.
        frozen_stages: As for V1. The patch merging that opens a stage is frozen with that stage.
        pretrained_window_sizes: For each stage, the side of the windows that the weights were
            trained with, where ``window_size`` is another; 0 where it is the same.
        extra_norm_every_n_blocks: Each stage's n-th, 2n-th, … block has a norm of its output; 0
            for none.
        arch: A variant, ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'`` or
            ``'giant'``: sets ``embed_dims``, ``depths`` and ``num_heads``, and of the last two
            ``extra_norm_every_n_blocks``. Also a dict of them.
        pad_small_map: As for V1. The official rule for V2 is False.
        global_attention: As for V1; the block is V1's, too.

    Raises:
        ArgumentTypeError: An unknown argument, or ``pretrained`` that is no string; a TypeError,
            too.
        ArgumentError: An argument whose value cannot be used, or two that contradict each other.
    """

    version = 2
    merging_opens_stage = True

    @named_arguments(VARIANTS)
    def __init__(
        self,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | tuple[int, int] = 4,
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        pretrained: str | None = None,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
        arch: str | dict | None = None,
        pad_small_map: bool = False,
        pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0),
        extra_norm_every_n_blocks: int = 0,
        global_attention: bool = False,
    ) -> None:
        extra_norm_every_n_blocks = integer(
            'extra_norm_every_n_blocks', extra_norm_every_n_blocks, 0
        )
        qkv_bias, pad_small_map = flag('qkv_bias', qkv_bias), flag('pad_small_map', pad_small_map)

        def stage(
            i: int, width: int, heads: int, hidden: int, depth: int, **rest: Any
        ) -> SwinBlockV2Sequence:
            windows = _windows(window_size, len(depths))
            pretrained = _pretrained_windows(pretrained_window_sizes, len(depths))
            return SwinBlockV2Sequence(
                *(width, heads, hidden, depth),
                **rest,
                window_size=windows[i],
                pretrained_window_size=pretrained[i],
                extra_norm_every_n_blocks=extra_norm_every_n_blocks,
                qkv_bias=qkv_bias,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
                pad_small_map=pad_small_map,
            )

        super().__init__(
            stage=stage,
            merging=partial(PatchMerging, norm_cfg=norm_cfg, use_post_norm=True),
            global_attention=partial(
                GlobalAttentionBlock,
                qkv_bias=qkv_bias,
                attn_drop_rate=attn_drop_rate,
                act_cfg=act_cfg,
            )
            if flag('global_attention', global_attention)
            else None,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_channels,
            embed_dims=embed_dims,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            depths=depths,
            num_heads=num_heads,
            strides=strides,
            out_indices=out_indices,
            patch_norm=patch_norm,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            use_abs_pos_embed=use_abs_pos_embed,
            norm_cfg=norm_cfg,
            with_cp=with_cp,
            pretrained=pretrained,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
            arch=arch,
        )
        windows = _windows(window_size, len(depths))
        self.window_size = windows if _has_one_each(window_size, len(depths)) else windows[0]
        self.extra_norm_every_n_blocks = extra_norm_every_n_blocks

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        for module in self.modules():
            if isinstance(module, SwinBlockV2):  # at first, each block is the identity
                nn.init.zeros_(module.norm1.weight)
                nn.init.zeros_(module.norm2.weight)


def _windows(window_size: Any, stages: int) -> tuple[int, ...]:
    """Of each stage. A pair is (height, width) of one window, but where there are two stages."""
    expected = (
        f'a positive int of {LARGEST_WINDOW} at most (or twice the same), or one for each of the '
        f'{stages} stages of depths'
    )
    if not _has_one_each(window_size, stages):
        return (window_side('window_size', window_size, expected),) * stages
    return tuple(window_side('window_size', side, expected) for side in window_size)


def _has_one_each(window_size: Any, stages: int) -> bool:
    return isinstance(window_size, list | tuple) and len(window_size) == stages


def _pretrained_windows(sizes: Any, stages: int) -> tuple[int, ...]:
    expected = (
        f'must have an int for each of the {stages} stages of depths: the side of the windows in '
        'pretraining, from 2 on, or 0'
    )
    if not isinstance(sizes, list | tuple) or len(sizes) < stages:
        raise ArgumentError(f'pretrained_window_sizes={shown(sizes)} {expected}')
    name = 'pretrained_window_sizes'
    plain = [integer(name, side, 0, LARGEST_COUNT, f'an int; it {expected}') for side in sizes]
    if 1 in plain:
        raise ArgumentError(f'pretrained_window_sizes={shown(sizes)} {expected}')
    return tuple(plain)

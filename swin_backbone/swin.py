"""Swin Transformer (V1): Liu et al., ICCV 2021, arXiv:2103.14030."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from .argument_values import flag, number, window_side
from .arguments import named_arguments
from .backbone import Backbone
from .layers import GlobalAttentionBlock, PatchMerging, SwinBlockSequence

# The paper's variants (section 3.3). The 32-wide heads are the same for all of them.
_TINY = dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
_SMALL = dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))
_BASE = dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
_LARGE = dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
VARIANTS = {
    **{'tiny': _TINY, 'small': _SMALL, 'base': _BASE, 'large': _LARGE},
    **{'t': _TINY, 's': _SMALL, 'b': _BASE, 'l': _LARGE},
}


class SwinTransformer(Backbone):
    """Swin Transformer backbone: feature maps at strides 4, 8, 16 and 32.

    Takes the arguments of mmdet's and mmseg's classes of that name, and the official release's
    spellings of them (``embed_dim``, ``in_chans``, ``ape``, ``use_checkpoint``, ``img_size``).
    Weights in OpenMMLab's or the official layout load alike (see ``docs/weights.md``).

    Args:
        pretrain_img_size: Side in pixels, or (height, width), of the images it was pretrained on:
            the size of the absolute position embedding's grid.
        in_channels: Channels of the input.
        embed_dims: Width C of the first stage's tokens; each stage doubles it.
        patch_size: Side of a patch in pixels, or (height, width); equals ``strides[0]``.
        window_size: Side M of the attention windows, in tokens, or (M, M); up to 128, as the index
            of their pairs of tokens takes 8 M⁴ bytes in each block.
        mlp_ratio: Width of the feed-forward networks' hidden layer, as a multiple of the stage's.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; must divide the stage's width.
        strides: Stride of the patch embedding, then of the patch merging before each later stage.
        out_indices: Stages whose output is returned; -1 is the last one. What no output depends on
            is not run, and its weights are buffers: in the state dict, but no parameters.
        qkv_bias: Whether query, key and value projections have a bias.
        qk_scale: Factor on the queries; (head width) ** -0.5 if None.
        patch_norm: Whether patch embedding and merging normalise.
        drop_rate: Probability of dropping an element after position embedding and projections.
        attn_drop_rate: Probability of dropping an attention weight.
        drop_path_rate: Probability of dropping a path for a sample in the last block; it grows
            linearly from 0 in the first.
        use_abs_pos_embed: Whether to add an absolute position embedding, interpolated to the
            input's size, to the patches.
        act_cfg: Activation of the feed-forward networks.
        norm_cfg: Normalisation.
        with_cp: What to recompute in the backward pass, which saves memory: True or ``'block'``,
            each block; ``'attention'`` or ``'mlp'``, that half of each block; ``'stage'``, all
            blocks of a stage together. Blocks in one piece recompute most of it anyway.
        pretrained: Former spelling of ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``.
        convert_weights: Has no effect: the layout of a checkpoint is told from its keys.
        frozen_stages: Freezes the patch embedding (0) and the first stages (1 to their number);
            -1 freezes nothing. In force from construction on.
        init_cfg: ``dict(type='Pretrained', checkpoint=path_or_url)`` or an mmengine initialiser.
        arch: A variant, ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dims``,
            ``depths`` and ``num_heads``. Also a dict of the three.
        pad_small_map: Whether a map that is no larger than the window is padded to it and shifted
            all the same, the official rule for detection and segmentation. False is that for
            classification: the window shrinks to the map's smaller side, and is not shifted.
        global_attention: Whether a block of global self-attention follows the last stage, as in
            HTC++ (:class:`~swin_backbone.layers.GlobalAttentionBlock`). It starts as the identity,
            and checkpoints without it load.

    Raises:
        ArgumentTypeError: An unknown argument, or ``pretrained`` that is no string; a TypeError,
            too.
        ArgumentError: An argument whose value cannot be used, or two that contradict each other.
    """

    version = 1

    @named_arguments(VARIANTS)
    def __init__(
        self,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | tuple[int, int] = 4,
        window_size: int | tuple[int, int] = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
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
        pad_small_map: bool = True,
        global_attention: bool = False,
    ) -> None:
        expected = 'a positive int, or twice the same; V1 has one window for all stages'
        window_size = window_side('window_size', window_size, expected)
        qkv_bias, patch_norm = flag('qkv_bias', qkv_bias), flag('patch_norm', patch_norm)
        pad_small_map = flag('pad_small_map', pad_small_map)
        if qk_scale is not None:
            qk_scale = number('qk_scale', qk_scale, -1e30, 1e30, 'a number or None')

        def stage(
            i: int, width: int, heads: int, hidden: int, depth: int, **rest: Any
        ) -> SwinBlockSequence:
            return SwinBlockSequence(
                *(width, heads, hidden, depth),
                **rest,
                window_size=window_size,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
                pad_small_map=pad_small_map,
            )

        super().__init__(
            stage=stage,
            merging=partial(PatchMerging, norm_cfg=norm_cfg if patch_norm else None),
            global_attention=partial(
                GlobalAttentionBlock,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
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
        self.window_size = window_size

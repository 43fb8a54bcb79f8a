"""Swin Transformer V2: Liu et al., CVPR 2022, arXiv:2111.09883."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from .arguments import declares_arguments
from .layers import PatchMerging, SwinBlockV2, SwinBlockV2Sequence
from .options import CHECKS_V2, BlockOptionsV2
from .options import VARIANTS_V2 as VARIANTS
from .swin import SwinTransformer

__all__ = ['VARIANTS', 'SwinTransformerV2']


class SwinTransformerV2(SwinTransformer):
    """Swin Transformer V2 backbone: feature maps at strides 4, 8, 16 and 32.

    Takes the arguments of :class:`~swin_backbone.SwinTransformer` except ``qk_scale``. It differs
    from V1 in three ways: attention uses scaled cosines; a small network computes the position
    bias, for windows of any size; and norms come after attention, feed-forward network and patch
    merging.

    Modules and state dict are those of mmpretrain's class of the same name: a patch merging opens a
    stage (``stages.1.downsample`` comes before ``stages.1.blocks``), where V1's closes one. From
    scratch the norms of a block's two paths start at 0, as in the official code, so that each block
    starts as the identity; mmpretrain's start at 1.

    Args:
        window_size: Side M of the attention windows in tokens, or (M, M), one for all stages or one
            for each; at most 128, as in V1.
        frozen_stages: As in V1. The patch merging that opens a stage is frozen with that stage.
        pretrained_window_sizes: For each stage, the side of the windows that the weights were
            trained with, if it differs from ``window_size``; 0 if it is the same.
        extra_norm_every_n_blocks: Every n-th block of a stage normalises its output; 0 for none.
        arch: A variant, ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'`` or
            ``'giant'``: sets ``embed_dims``, ``depths`` and ``num_heads``, and for the last two
            ``extra_norm_every_n_blocks``. Also a dict of these.
        pad_small_map: As in V1. The official rule for V2 is False.
        global_attention: As in V1; the block is V1's, too.

    Raises:
        ArgumentTypeError: An unknown argument, or ``pretrained`` that is not a string; also a
            TypeError.
        ArgumentError: An argument with an invalid value, or two that contradict each other.
    """

    version: ClassVar[int] = 2
    merging_opens_stage: ClassVar[bool] = True

    @declares_arguments(
        VARIANTS, CHECKS_V2, extends=SwinTransformer.__init__, without=('qk_scale',)
    )
    def __init__(
        self,
        *,
        pad_small_map: bool = False,
        pretrained_window_sizes: Sequence[int] = (0, 0, 0, 0),
        extra_norm_every_n_blocks: int = 0,
        global_attention: bool = False,
        **shared: Any,
    ) -> None:
        pass  # the decorator checks the arguments and calls _build

    def _build(self, arguments: Any) -> None:
        super()._build(arguments)
        self.extra_norm_every_n_blocks: int = arguments.extra_norm_every_n_blocks

    def _block_options(self, arguments: Any) -> BlockOptionsV2:
        return BlockOptionsV2.of(vars(arguments))

    def _stage(self, i: int, arguments: Any, **own: Any) -> SwinBlockV2Sequence:
        windows = arguments.window_size
        options = replace(
            self._block_options(arguments),
            window_size=windows[i] if isinstance(windows, tuple) else windows,
            pretrained_window_size=arguments.pretrained_window_sizes[i],
        )
        every_n = arguments.extra_norm_every_n_blocks
        return SwinBlockV2Sequence(**own, extra_norm_every_n_blocks=every_n, **vars(options))

    def _merging(self, i: int, stride: int, arguments: Any) -> PatchMerging:
        width, norm_cfg = self.num_features[i], arguments.norm_cfg
        return PatchMerging(width, 2 * width, stride=stride, norm_cfg=norm_cfg, use_post_norm=True)

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        for module in self.modules():
            if isinstance(module, SwinBlockV2):  # each block starts as the identity
                nn.init.zeros_(module.norm1.weight)
                nn.init.zeros_(module.norm2.weight)

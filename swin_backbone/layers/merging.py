"""Downsampling between stages."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.merging import patch_merging
from ..ops.recording import TORCH, Definitions, observed, recording
from ..ops.sizes import unflatten
from .embedding import AdaptivePadding, Pair, covered_grid, pair
from .from_config import build_norm
from .fused import why_merging_unfused

DEFINED = Definitions((AdaptivePadding, 'forward'))


class PatchMerging(BaseModule):
    """Concatenates 2×2 neighbouring tokens, normalises and projects them (section 3.1).

    V2 projects before it normalises. The arguments and their defaults are mmdet's.

    A map with odd sides is padded with zero tokens at the bottom and right. The concatenated
    channels are in ``nn.Unfold``'s order, as in OpenMMLab: input channel, row, column. The official
    code orders them by column, row, channel.

    Args:
        in_channels: Width of the tokens.
        out_channels: Width of the merged tokens.
        kernel_size: Side of a merged neighbourhood in tokens, or (height, width).
        stride: Step between neighbourhoods, one number or two; ``kernel_size`` if None.
        padding: Zero tokens added on each side, or the mode of :class:`AdaptivePadding`.
        dilation: Distance between the tokens of a neighbourhood.
        bias: Whether the projection has a bias.
        norm_cfg: Normalisation of the concatenated channels, or None.
        init_cfg: mmengine's initialisers.
        use_post_norm: Whether ``norm_cfg`` normalises the ``out_channels`` projected channels
            instead.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair = 2,
        stride: int | Pair | None = None,
        padding: int | Pair | str = 'corner',
        dilation: int | Pair = 1,
        bias: bool = False,
        norm_cfg: dict | None = dict(type='LN'),
        init_cfg: dict | None = None,
        *,
        use_post_norm: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.use_post_norm = use_post_norm
        rows, columns = kernel_size = pair(kernel_size)
        stride, dilation = pair(stride or kernel_size), pair(dilation)
        self.stride = stride[0]
        pairs = (2, 2), (2, 2), (1, 1), 'corner'
        self.has_pairs = (kernel_size, stride, dilation, padding) == pairs
        self.adap_padding: Any = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel_size, stride, dilation, padding)
            padding = 0
        self.sampler = nn.Unfold(kernel_size, dilation, pair(padding), stride)
        merged = rows * columns * in_channels
        normed = out_channels if use_post_norm else merged
        self.norm = build_norm(norm_cfg, normed) if norm_cfg else None
        self.reduction = nn.Linear(merged, out_channels, bias=bias)

    def forward(self, x: Tensor, input_size: Pair) -> tuple[Tensor, Pair]:
        """Tokens (B, H * W, in_channels) of a map ``input_size``, (H, W), and their merged grid.

        Returns:
            (B, H' * W', out_channels) and (H', W').
        """
        if why_merging_unfused(self, x) is None:
            x = self._fused(x.unflatten(1, input_size))
            return x.flatten(1, 2), (x.shape[1], x.shape[2])
        x, grid = (self._pairs if self._merges_pairs() else self._sampled)(x, input_size)
        if self.use_post_norm:
            x = self.reduction(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.use_post_norm else self.reduction(x), grid

    def _fused(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        return patch_merging(x, norm.weight, norm.bias, self.reduction.weight, eps=norm.eps)

    def _merges_pairs(self) -> bool:
        """Whether neighbourhoods are 2×2 without overlap and no hook observes the sampler."""
        return (
            self.has_pairs
            and TORCH.is_as_defined(self.sampler, nn.Unfold)
            and TORCH.is_as_defined(self.adap_padding, AdaptivePadding)
            and DEFINED.replaced() is None
            and observed() is None
        )

    def _sampled(self, x: Tensor, input_size: Pair) -> tuple[Tensor, Pair]:
        """Concatenated channels of each neighbourhood, and their grid, from the sampler."""
        x = unflatten(x, 1, input_size).permute(0, 3, 1, 2)
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        grid = covered_grid(self.sampler, x.shape[2], x.shape[3])
        return self.sampler(x).transpose(1, 2), grid

    def _pairs(self, x: Tensor, input_size: Pair) -> tuple[Tensor, Pair]:
        """The same for 2×2 tokens, faster: the map stays in channels-last layout."""
        x = unflatten(x, 1, input_size)
        bottom, right = self.adap_padding.get_pad_shape(input_size)
        # A recorded graph always pads, by 0 if need be, so that it holds for every size.
        if recording() or bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = (input_size[0] + bottom) // 2, (input_size[1] + right) // 2
        # Two copies, the first of whole tokens, are faster than one of single elements.
        x = unflatten(unflatten(x, 1, (rows, 2)), 3, (columns, 2)).transpose(2, 3)
        return x.flatten(3, 4).transpose(3, 4).flatten(3).flatten(1, 2), (rows, columns)

"""Downsampling between stages."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.merging import patch_merging
from ..ops.sizes import ceil_div, recording
from .from_config import build_norm
from .in_one_piece import why_merging_not_in_one_piece


class PatchMerging(BaseModule):
    """Concatenates 2×2 neighbouring tokens, normalises and projects them (section 3.1).

    V2 projects first and normalises then.

    A map whose sides do not fit is padded with zero tokens at the bottom and right. The
    concatenated channels are in the order of ``nn.Unfold``, OpenMMLab's: input channel first, then
    row, then column. The official code orders them by column, row, channel.

    Args:
        in_channels: Width of the tokens.
        out_channels: Width of the merged tokens.
        stride: Step between merged neighbourhoods, in tokens.
        norm_cfg: Normalisation of the 4 * in_channels concatenated channels, or None.
        use_post_norm: Whether it is that of the out_channels projected ones instead.
        init_cfg: As for every mmengine module.
    """

    kernel_size = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        norm_cfg: dict | None = dict(type='LN'),
        use_post_norm: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.use_post_norm = use_post_norm
        merged = self.kernel_size**2 * in_channels
        normed = out_channels if use_post_norm else merged
        self.norm = build_norm(norm_cfg, normed) if norm_cfg else None
        self.reduction = nn.Linear(merged, out_channels, bias=False)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, H * W, in_channels) to (B, H' * W', out_channels) and their grid (H', W')."""
        H, W = hw_shape
        if self._plain and why_merging_not_in_one_piece(self, x) is None:
            x = self._in_one_piece(x.unflatten(1, hw_shape))
            return x.flatten(1, 2), (x.shape[1], x.shape[2])
        x = x.view(x.shape[0], H, W, x.shape[-1])
        rows, columns = ceil_div(H, self.stride), ceil_div(W, self.stride)
        bottom, right = self._padding(rows, H), self._padding(columns, W)
        # A recorded graph pads by what may be nothing: it would else be one graph for each case.
        if recording() or bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        x = self._neighbours(x, rows, columns).flatten(1, 2)
        if self.use_post_norm:
            x = self.reduction(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.use_post_norm else self.reduction(x), (rows, columns)

    @property
    def _plain(self) -> bool:
        """Whether it is what section 3.1 describes."""
        plain = self.stride == self.kernel_size and not self.use_post_norm
        return plain and self.norm is not None and self.reduction.bias is None

    def _in_one_piece(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        return patch_merging(x, norm.weight, norm.bias, self.reduction.weight, eps=norm.eps)

    def _neighbours(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """The channels of 2×2 tokens each: a map (B, H, W, C) that fits to (B, H', W', 4C)."""
        if self.stride != self.kernel_size:
            # (B, H', W', C, 2, 2) is a view until it is flattened.
            x = x.unfold(1, self.kernel_size, self.stride).unfold(2, self.kernel_size, self.stride)
            return x.flatten(3)
        # The same in two copies, first of whole tokens, which is faster than one of lone elements.
        x = x.unflatten(1, (rows, 2)).unflatten(3, (columns, 2)).transpose(2, 3)
        return x.flatten(3, 4).transpose(3, 4).flatten(3)

    def _padding(self, steps: int, length: int) -> int:
        """Tokens that an axis lacks for so many steps; none where it has tokens to spare."""
        if self.stride == self.kernel_size:
            return steps * self.stride - length
        return max((steps - 1) * self.stride + self.kernel_size - length, 0)

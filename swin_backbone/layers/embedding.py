"""Image to tokens."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError
from ..ops.sizes import lacking, recording
from .from_config import build_norm


class PatchEmbed(BaseModule):
    """Cuts an image into patches and projects each to a token (section 3.1, "patch partition").

    An image whose sides are no multiple of the patch is padded with zeros at the bottom and right.

    Args:
        in_channels: Channels of the image.
        embed_dims: Width C of a token.
        patch_size: Side of a patch in pixels, or (height, width).
        norm_cfg: Normalisation of the tokens, or None.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | tuple[int, int] = 4,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.patch_size = to_2tuple(patch_size)
        self.projection = nn.Conv2d(in_channels, embed_dims, self.patch_size, self.patch_size)
        self.norm = build_norm(norm_cfg, embed_dims) if norm_cfg else None

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, in_channels, H, W) to tokens (B, H' * W', embed_dims) and their grid (H', W').

        Raises:
            ArgumentError: The input is no (B, in_channels, H, W) map or is smaller than a patch.
        """
        self._check(x)
        height, width = self.patch_size
        bottom, right = lacking(x.shape[2], height), lacking(x.shape[3], width)
        # A recorded graph pads by what may be nothing: it would else be one graph for each case.
        if recording() or right or bottom:
            x = F.pad(x, (0, right, 0, bottom))
        x = self.projection(x)
        hw_shape = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return (x if self.norm is None else self.norm(x)), hw_shape

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ArgumentError(
                f'expected an input of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}; '
                'another number of channels is set by in_channels='
            )
        if x.shape[2] < self.patch_size[0] or x.shape[3] < self.patch_size[1]:
            raise ArgumentError(
                f'an input of {x.shape[2]}×{x.shape[3]} pixels is smaller than one patch of '
                f'{self.patch_size[0]}×{self.patch_size[1]}; resize or pad it first'
            )

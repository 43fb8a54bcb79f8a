"""Image to tokens."""

from __future__ import annotations

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from ..argument_values import choice
from ..errors import ArgumentError
from ..ops.recording import recording
from ..ops.sizes import ceil_div, lacking
from .from_config import build_norm

Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """Height and width, from one number for both or from two."""
    height, width = to_2tuple(value)
    return height, width


class AdaptivePadding(nn.Module):
    """Pads a map with zeros so that a sliding kernel covers all of it.

    Args:
        kernel_size: Side of the kernel, or (height, width).
        stride: Stride of the kernel, one number or two.
        dilation: Dilation of the kernel, one number or two.
        padding: ``'corner'`` pads at the bottom and right, ``'same'`` on all sides.
    """

    def __init__(
        self,
        kernel_size: int | Pair = 1,
        stride: int | Pair = 1,
        dilation: int | Pair = 1,
        padding: str = 'corner',
    ) -> None:
        super().__init__()
        self.padding = choice('padding', padding, ('corner', 'same'))
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.dilation = pair(dilation)

    def get_pad_shape(self, input_shape: Pair) -> Pair:
        """Rows and columns of padding for a map of shape (H, W)."""
        rows, columns = (self._lacking(length, i) for i, length in enumerate(input_shape))
        return rows, columns

    def _lacking(self, length: int, axis: int) -> int:
        stride = self.stride[axis]
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        if reach == stride:
            return lacking(length, stride)
        return max((ceil_div(length, stride) - 1) * stride + reach - length, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        rows, columns = self.get_pad_shape((x.shape[2], x.shape[3]))
        # A recorded graph always pads, by 0 if need be, so that it holds for every size.
        if not (recording() or rows or columns):
            return x
        if self.padding == 'corner':
            return F.pad(x, (0, columns, 0, rows))
        left, top = columns // 2, rows // 2
        return F.pad(x, (left, columns - left, top, rows - top))


class PatchEmbed(BaseModule):
    """Cuts an image into patches and projects each to a token (section 3.1, "patch partition").

    The arguments and their defaults are mmdet's.

    Args:
        in_channels: Channels of the image.
        embed_dims: Width C of a token.
        conv_type: A registered convolution.
        kernel_size: Side of a patch in pixels, or (height, width).
        stride: Step between patches, one number or two; ``kernel_size`` if None.
        padding: Zeros added on each side, or the mode of :class:`AdaptivePadding`.
        dilation: Dilation of the convolution.
        bias: Whether the convolution has a bias.
        norm_cfg: Normalisation of the tokens, or None.
        input_size: Side of an image in pixels, or (height, width), whose grid becomes
            ``init_out_size``; None for none.
        init_cfg: mmengine's initialisers.

    Attributes:
        init_input_size, init_out_size: (height, width) in pixels and the grid (H', W') in tokens,
            or None.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 768,
        conv_type: str = 'Conv2d',
        kernel_size: int | Pair = 16,
        stride: int | Pair | None = 16,
        padding: int | Pair | str = 'corner',
        dilation: int | Pair = 1,
        bias: bool = True,
        norm_cfg: dict | None = None,
        input_size: int | Pair | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.patch_size = pair(kernel_size)
        stride = pair(stride or kernel_size)
        self.adap_padding = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel_size, stride, dilation, padding)
            padding = 0
        self.projection = build_conv_layer(
            dict(type=conv_type),
            in_channels=in_channels,
            out_channels=embed_dims,
            kernel_size=self.patch_size,
            stride=stride,
            padding=pair(padding),
            dilation=pair(dilation),
            bias=bias,
        )
        self.norm = build_norm(norm_cfg, embed_dims) if norm_cfg is not None else None
        self.init_input_size = self.init_out_size = None
        if input_size:
            self.init_input_size = height, width = pair(input_size)
            if self.adap_padding is not None:
                bottom, right = self.adap_padding.get_pad_shape((height, width))
                height, width = height + bottom, width + right
            self.init_out_size = covered_grid(self.projection, height, width)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, in_channels, H, W) to tokens (B, H' * W', embed_dims) and their grid (H', W').

        Raises:
            ArgumentError: The input is not (B, in_channels, H, W), or is smaller than a patch.
        """
        self._check(x)
        if self.adap_padding is not None:
            x = self.adap_padding(x)
        x = self.projection(x)
        hw_shape = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return (x if self.norm is None else self.norm(x)), hw_shape

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ArgumentError(
                f'expected an input of shape (B, {self.in_channels}, H, W), as '
                f'in_channels={self.in_channels}, got {tuple(x.shape)}'
            )
        if x.shape[2] < self.patch_size[0] or x.shape[3] < self.patch_size[1]:
            raise ArgumentError(
                f'an input of {x.shape[2]}×{x.shape[3]} pixels is smaller than one patch of '
                f'{self.patch_size[0]}×{self.patch_size[1]}; resize or pad it first'
            )


def covered_grid(kernel: nn.Conv2d | nn.Unfold, height: int, width: int) -> tuple[int, int]:
    """Positions of a sliding kernel in rows and columns of a map."""
    rows, columns = (
        (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1
        for length, padding, dilation, size, stride in zip(
            (height, width),
            *map(to_2tuple, (kernel.padding, kernel.dilation, kernel.kernel_size, kernel.stride)),
            strict=True,
        )
    )
    return rows, columns

"""Deformable convolution, with and without modulation (Dai et al. 2017; Zhu et al. 2019).

An image is sampled bilinearly at each of the kernel's K taps plus the tap's offset. The samples are
multiplied by the tap's mask, if there are masks, and by the kernel. Offsets
(B, 2 * deform_groups * K, H', W') hold y before x for each tap. Pixels beyond the image are zeros,
and a sample at -1 or below, or at the image's size or above, is zero.

As in the compiled operators, gradients of images, kernel and bias are accumulated, while the output
and the gradients of offsets and masks are overwritten. The buffers for columns and ones are unused,
and memory is bounded without ``im2col_step``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bilinear import bag_sums, pixels, samples
from .calling import batches, operator, wide


@operator
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Writes the convolution of images (B, C, H, W) into ``output`` (B, O, H', W').

    The kernel is ``weight`` (O, C / group, kH, kW); ``dH`` and ``dW`` are the strides.
    """
    geometry = (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    _forward(_Geometry(*geometry), input, weight, offset, None, None, output)


@operator
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds to ``gradInput`` and writes ``gradOffset``; see :func:`deform_conv_forward`."""
    geometry = (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    _backward(
        *(_Geometry(*geometry), input, weight, offset, None),
        *(gradOutput, gradInput, gradOffset, None, None),
    )


@operator
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the kernel's gradient to ``gradWeight``; see the forward function."""
    geometry = (kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    here = _Geometry(*geometry)
    here.check(input, gradWeight, offset, None)
    total = torch.zeros_like(here.kernel(gradWeight))
    for part in here.parts(input, offset):
        sampled = here.columns(wide(input[part]), wide(offset[part]), None)
        total += here.grouped(sampled).mT @ here.rows(gradOutput[part])
    gradWeight += scale * here.like_weight(total, gradWeight)


@operator
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes the convolution of images (B, C, H, W) into ``output`` (B, O, H', W').

    The kernel is ``weight`` (O, C / group, kernel_h, kernel_w), ``mask`` holds the factors of the
    samples (B, deformable_group * K, H', W'), and ``bias`` (O,) is used if ``with_bias``.
    """
    kernel, stride, padding = (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w)
    dilation = dilation_h, dilation_w
    here = _Geometry(kernel, stride, padding, dilation, group, deformable_group)
    _forward(here, input, weight, offset, mask, bias if with_bias else None, output)


@operator
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Adds to the gradients of images, kernel and bias; writes those of offsets and masks."""
    kernel, stride, padding = (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w)
    dilation = dilation_h, dilation_w
    here = _Geometry(kernel, stride, padding, dilation, group, deformable_group)
    _backward(
        *(here, input, weight, offset, mask),
        *(grad_output, grad_input, grad_offset, grad_mask, grad_weight),
    )
    if with_bias:
        grad_bias += wide(grad_output).sum((0, 2, 3))


@dataclass(frozen=True)
class _Geometry:
    """Kernel size, strides and groups of a convolution, and the layouts of its operands.

    With N output pixels in all images and g groups, the convolution is the product of columns
    (g, N, K * C / g) and the kernel (g, K * C / g, O / g).
    """

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    def check(self, images: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None) -> None:
        """Raises RuntimeError, like the compiled operators, if sizes do not match."""
        B, C = images.shape[:2]
        places = self.window[0] * self.window[1]
        size = tuple(
            (
                images.shape[2 + i]
                + 2 * self.padding[i]
                - self.dilation[i] * (self.window[i] - 1)
                - 1
            )
            // self.stride[i]
            + 1
            for i in range(2)
        )
        wanted = [
            ('weight', weight, (weight.shape[0], C // self.groups, *self.window)),
            ('offset', offset, (B, 2 * self.deform_groups * places, *size)),
            ('mask', mask, (B, self.deform_groups * places, *size)),
        ]
        for name, tensor, shape in wanted:
            if tensor is not None and tuple(tensor.shape) != shape:
                raise RuntimeError(
                    f'deformable convolution: {name} must have the shape {shape} for images '
                    f'{tuple(images.shape)}, but has {tuple(tensor.shape)}'
                )
        if C % self.groups or C % self.deform_groups:
            raise RuntimeError(
                f'deformable convolution: {C} channels cannot be divided into {self.groups} groups '
                f'and {self.deform_groups} deformable groups'
            )

    def parts(self, images: Tensor, offset: Tensor) -> list[slice]:
        """Slices of the batch, which bound the size of the columns."""
        places = self.window[0] * self.window[1]
        return batches(len(images), images.shape[1] * places * offset.shape[2] * offset.shape[3])

    def columns(self, images: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        """The samples (N, K, C) of images, differentiable with respect to all arguments."""
        (B, C, H, W), (h, w) = images.shape, offset.shape[2:]
        G, (kh, kw) = self.deform_groups, self.window
        offset = offset.reshape(B, G, kh, kw, 2, h, w).permute(0, 5, 6, 2, 3, 1, 4)
        y, x = (self._starts(i, offset) + offset[..., i] for i in range(2))  # (B, h, w, kh, kw, G)
        factors = None if mask is None else mask.reshape(B, G, kh, kw, h, w)
        if factors is not None:
            factors = factors.permute(0, 4, 5, 2, 3, 1)
        table = pixels(images.reshape(B * G, C // G, H, W))
        first = torch.arange(B * G, device=images.device).view(B, 1, 1, 1, 1, G) * (H * W)
        rows, weights = samples(y, x, H, W, first, len(table) - 1, factors)
        sums = bag_sums(table, rows.reshape(-1, 4), weights.reshape(-1, 4))
        return sums.view(B * h * w, kh * kw, C)

    def _starts(self, i: int, offset: Tensor) -> Tensor:
        """Positions of the taps without offsets on axis ``i``; broadcasts to the offsets."""
        places = torch.arange(self.window[i], device=offset.device) * self.dilation[i]
        pixels = torch.arange(offset.shape[1 + i], device=offset.device) * self.stride[i]
        shape = [1] * 6
        shape[1 + i], shape[3 + i] = len(pixels), len(places)
        starts = pixels[:, None] - self.padding[i] + places
        return starts.to(offset.dtype).view(shape)

    def grouped(self, columns: Tensor) -> Tensor:
        """Columns (N, K, C) as (g, N, K * C / g)."""
        N, K, C = columns.shape
        g = self.groups
        return columns.view(N, K, g, C // g).permute(2, 0, 1, 3).reshape(g, N, K * C // g)

    def ungrouped(self, columns: Tensor) -> Tensor:
        """Columns (g, N, K * C / g) as (N, K, C)."""
        g, N, width = columns.shape
        K = self.window[0] * self.window[1]
        return columns.view(g, N, K, width // K).permute(1, 2, 0, 3).reshape(N, K, g * width // K)

    def kernel(self, weight: Tensor) -> Tensor:
        """The kernel (O, C / g, kh, kw) as (g, K * C / g, O / g)."""
        g = self.groups
        out, width = weight.shape[0] // g, weight[0].numel()
        kernel = wide(weight).reshape(g, out, weight.shape[1], -1)
        return kernel.permute(0, 3, 2, 1).reshape(g, width, out)

    def like_weight(self, kernel: Tensor, weight: Tensor) -> Tensor:
        """The inverse of :meth:`kernel`."""
        g, _, out = kernel.shape
        kernel = kernel.view(g, -1, weight.shape[1], out)
        return kernel.permute(0, 3, 2, 1).reshape(weight.shape)

    def rows(self, maps: Tensor) -> Tensor:
        """Maps (B, O, h, w) as (g, N, O / g)."""
        g, (B, channels) = self.groups, maps.shape[:2]
        maps = wide(maps).reshape(B, g, channels // g, -1)
        return maps.permute(1, 0, 3, 2).reshape(g, -1, channels // g)

    def like_output(self, rows: Tensor, output: Tensor) -> Tensor:
        """The inverse of :meth:`rows`."""
        g, _, out = rows.shape
        return rows.view(g, len(output), -1, out).permute(1, 0, 3, 2).reshape(output.shape)


def _forward(
    here: _Geometry,
    images: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
) -> None:
    here.check(images, weight, offset, mask)
    kernel = here.kernel(weight)
    for part in here.parts(images, offset):
        masks = None if mask is None else wide(mask[part])
        columns = here.columns(wide(images[part]), wide(offset[part]), masks)
        result = here.like_output(here.grouped(columns) @ kernel, output[part])
        if bias is not None:
            result += wide(bias)[:, None, None]
        output[part] = result


def _backward(
    here: _Geometry,
    images: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    grad_output: Tensor,
    grad_images: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    here.check(images, weight, offset, mask)
    kernel = here.kernel(weight)
    total = torch.zeros_like(kernel)
    for part in here.parts(images, offset):
        inputs = [images, offset] if mask is None else [images, offset, mask]
        leaves = [wide(tensor[part].detach()).requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            columns = here.columns(leaves[0], leaves[1], leaves[2] if mask is not None else None)
        grad = here.rows(grad_output[part])
        if grad_weight is not None:
            total += here.grouped(columns.detach()).mT @ grad
        grads = torch.autograd.grad(columns, leaves, here.ungrouped(grad @ kernel.mT))
        grad_images[part] += grads[0]
        grad_offset[part] = grads[1]
        if grad_mask is not None:
            grad_mask[part] = grads[2]
    if grad_weight is not None:
        grad_weight += here.like_weight(total, grad_weight)

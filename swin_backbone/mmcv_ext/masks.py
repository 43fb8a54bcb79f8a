"""Masked im2col and col2im, and the masks of point-wise spatial attention (PSANet)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .calling import operator

COLLECT = 0


@operator
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Writes the columns of M windows of an image (1, C, H, W) into ``col`` (C * K, M).

    Args:
        im: The image, padded with zeros.
        mask_h_idx: Row of each window in the convolution's output, int64 (M,).
        mask_w_idx: Column of each window.
        col: Overwritten with the K taps of each channel, row by row.
        kernel_h: Height of the kernel. The stride is 1.
        kernel_w: Width of the kernel.
        pad_h: Padding above and below.
        pad_w: Padding left and right.
    """
    device = im.device
    rows = torch.arange(kernel_h, device=device).view(-1, 1, 1) + mask_h_idx
    columns = torch.arange(kernel_w, device=device).view(-1, 1) + mask_w_idx
    image = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    col.copy_(image[:, rows, columns].view_as(col))  # (C, kernel_h, kernel_w, M) before


@operator
def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Writes columns (channels, M) into the pixels of ``im`` (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col.view(channels, -1)


@operator
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spreads each pixel's mask, which is centered at the pixel, over the pixels of the map.

    Args:
        input: Mask of each pixel (B, h_mask * w_mask, H, W).
        output: (B, H * W, H, W). For ``psa_type`` 0 (collect) the channels are the pixels that the
            mask covers, for 1 (distribute) the masks. Other elements are not changed.
        psa_type: 0 or 1.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: Height of the masks.
        w_mask: Width of the masks.
        half_h_mask: Row of the masks' center.
        half_w_mask: Column of the masks' center.
    """
    sizes = (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask)
    places, covered = _covered(*sizes, input.device)
    spread = input.flatten(2).gather(1, places.expand(num_, -1, -1))
    if psa_type != COLLECT:
        spread, covered = spread.mT, covered.mT
    old = output.view(num_, *covered.shape)
    output.copy_(torch.where(covered, spread, old).view_as(output))


@operator
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes the gradient of the masks within the map; see :func:`psamask_forward`."""
    sizes = (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask)
    places, covered = _covered(*sizes, grad_output.device)
    grad = grad_output.reshape(num_, *covered.shape)
    if psa_type != COLLECT:
        grad = grad.mT
    # Each element of a mask covers at most one pixel, so that nothing is written twice.
    image, covered_pixel, pixel = covered.expand(num_, -1, -1).nonzero(as_tuple=True)
    row, column = pixel // w_feature, pixel % w_feature
    place = places[covered_pixel, pixel]
    grad_input[image, place, row, column] = grad[image, covered_pixel, pixel]


def _covered(
    feature: tuple[int, int], mask: tuple[int, int], half: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The mask element with which the mask of one pixel covers another pixel.

    Returns:
        Indices (covered pixels, pixels of the masks), 0 if the mask does not cover the pixel; and
        whether it does.
    """
    row, column = (
        torch.arange(size, device=device) - torch.arange(size, device=device)[:, None]
        for size in feature
    )
    row, column = half[0] - row, half[1] - column  # (covered, pixel)
    H, W = feature
    row, column = row.view(H, 1, H, 1), column.view(1, W, 1, W)
    there = (row >= 0) & (row < mask[0]) & (column >= 0) & (column < mask[1])
    places = torch.where(there, row * mask[1] + column, 0)
    return places.view(H * W, H * W), there.view(H * W, H * W)

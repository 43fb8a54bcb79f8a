"""CARAFE: upsampling by weighted sums of a pixel's neighbours (Wang et al. 2019, section 3).

An output pixel is the sum of the kernel_size x kernel_size pixels around its source pixel, weighted
by masks that depend on the output pixel, the neighbor and the channel's group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bilinear import bag_sums, pixels
from .calling import batches, operator, wide


@operator
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the upsampled maps, and the features for the backward pass.

    Args:
        features: Maps (B, C, H, W).
        masks: (B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor).
        rfeatures: Overwritten with the features as (B, H, W, C).
        routput: Unused.
        rmasks: Unused.
        output: Overwritten, (B, C, H * scale_factor, W * scale_factor).
        kernel_size: Side of the neighbourhood, odd.
        group_size: Groups of channels with separate masks.
        scale_factor: Output pixels per source pixel along each side.
    """
    B, C, H, W = features.shape
    rfeatures.resize_(B, H, W, C).copy_(features.permute(0, 2, 3, 1))
    for part in _parts(masks):
        output[part] = _reassembled(
            wide(features[part]), wide(masks[part]), kernel_size, group_size, scale_factor
        )


@operator
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of features and masks; see :func:`carafe_forward`."""
    bottom_grad.zero_()
    mask_grad.zero_()
    features = rfeatures.permute(0, 3, 1, 2)
    sizes = (kernel_size, group_size, scale_factor)
    _add_gradients(top_grad, features, masks, bottom_grad, mask_grad, *sizes)


@operator
def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the upsampled maps; see :func:`carafe_forward`."""
    for part in _parts(masks):
        output[part] = _reassembled(
            wide(features[part]), wide(masks[part]), kernel_size, group_size, scale_factor
        )


@operator
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Adds the gradients to ``bottom_grad`` and ``mask_grad``; see :func:`carafe_forward`."""
    sizes = (kernel_size, group_size, scale_factor)
    _add_gradients(top_grad, features, masks, bottom_grad, mask_grad, *sizes)


def _parts(masks: Tensor) -> list[slice]:
    return batches(len(masks), masks[:1].numel())


def _reassembled(features: Tensor, masks: Tensor, k: int, groups: int, scale: int) -> Tensor:
    B, C, H, W = features.shape
    device = features.device
    h, w = H * scale, W * scale
    places = torch.arange(k, device=device) - k // 2
    y = torch.arange(h, device=device).view(h, 1, 1, 1) // scale + places[:, None]
    x = torch.arange(w, device=device).view(w, 1, 1) // scale + places  # (h, w, k, k) with y
    there = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    maps = torch.arange(B * groups, device=device).view(-1, 1, 1, 1, 1)
    rows = (maps * H + y) * W + x  # (B * groups, h, w, k, k)
    weights = masks.reshape(B * groups, k * k, h, w).permute(0, 2, 3, 1)
    table = pixels(features.reshape(B * groups, C // groups, H, W))
    rows = torch.where(there, rows, len(table) - 1)
    sums = bag_sums(table, rows.view(-1, k * k), weights.reshape(-1, k * k))
    sums = sums.view(B, groups, h, w, C // groups)
    return sums.permute(0, 1, 4, 2, 3).reshape(B, C, h, w)


def _add_gradients(
    grad: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_features: Tensor,
    grad_masks: Tensor,
    k: int,
    groups: int,
    scale: int,
) -> None:
    for part in _parts(masks):
        leaves = [wide(tensor[part].detach()).requires_grad_() for tensor in (features, masks)]
        with torch.enable_grad():
            output = _reassembled(leaves[0], leaves[1], k, groups, scale)
        grads = torch.autograd.grad(output, leaves, wide(grad[part]))
        grad_features[part] += grads[0]
        grad_masks[part] += grads[1]

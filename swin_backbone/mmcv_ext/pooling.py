"""``roi_pool``: the maximum over the cells of each bin (Girshick, Fast R-CNN, 2015).

torchvision's operator rounds the corners of regions to cells first; mmcv's does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .calling import wide
from .overlaps import rounded

# Largest number of elements that are processed at once.
NUMBERS = 1 << 20


def _edges(start: Tensor, bin_size: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First cells of bins and the cells after the last ``(N, bins)``, within the map."""
    number = torch.arange(bins, device=start.device)
    start, bin_size = start[:, None], bin_size[:, None]
    # The compiled operator rounds in float32.
    first = (number * bin_size + start).float().floor()
    after = ((number + 1) * bin_size + start).float().ceil()
    return first.clamp(0, size).int(), after.clamp(0, size).int()


@torch.no_grad()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Writes the maximum over the cells of each bin.

    Args:
        input: A map ``(B, C, H, W)``.
        rois: Regions ``(N, 5)`` as ``(image, x1, y1, x2, y2)``, including the corners.
        output: Overwritten with the maxima ``(N, C, pooled_height, pooled_width)``; 0 for bins
            without cells.
        argmax: Overwritten with their cells, ``y * W + x``; -1 for bins without cells. The compiled
            operator writes 0 for regions without an area, which sends their gradient to cell 0.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Cells of the map per unit of the regions.
    """
    if not len(rois):
        return
    x = wide(input)
    _, channels, height, width = x.shape
    table = x.permute(0, 2, 3, 1).contiguous()
    rois = rois.to(x.dtype)
    scale = rounded(spatial_scale)
    top_left, bottom_right = rois[:, 1:3] * scale, (rois[:, 3:] + 1) * scale
    sides = bottom_right - top_left
    bin_w, bin_h = sides[:, 0] / pooled_width, sides[:, 1] / pooled_height
    left, right = _edges(top_left[:, 0], bin_w, pooled_width, width)
    top, bottom = _edges(top_left[:, 1], bin_h, pooled_height, height)
    # A region without an area has no cells.
    right = torch.where((sides > 0).all(1, keepdim=True), right, left)

    image = rois[:, 0].long()
    rows = int((bottom.amax(1) - top.amin(1)).clamp(min=1).max())
    step = max(1, NUMBERS // (rows * pooled_width * channels))
    for start in range(0, len(rois), step):
        part = slice(start, start + step)
        best, at = _maxima(table, image[part], top[part], bottom[part], left[part], right[part])
        output[part].copy_(best.permute(0, 3, 1, 2))
        argmax[part].copy_(at.permute(0, 3, 1, 2))


def _maxima(
    table: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """Maxima of bins and their cells ``(M, rows, columns, C)``, computed along rows first.

    Args:
        table: The map ``(B, H, W, C)``.
        image: Index of the image ``(M,)``.
        top: First rows of bins ``(M, rows of bins)``.
        bottom: The rows after the last.
        left: First columns of bins ``(M, columns of bins)``.
        right: The columns after the last.
    """
    _, height, width, channels = table.shape
    table = table.view(-1, channels)
    first = top.amin(1, keepdim=True)
    rows = int((bottom.amax(1, keepdim=True) - first).clamp(min=1).max())
    lines = first + torch.arange(rows, device=top.device)  # (M, rows)
    lines = lines.clamp(max=height - 1)[:, :, None]
    lines = (lines + image[:, None, None] * height) * width
    shape = (len(top), rows, left.shape[1], channels)
    lowest = torch.finfo(torch.float32).min
    best = table.new_full(shape, lowest)
    at = torch.full(shape, -1, dtype=torch.int32, device=table.device)
    for step in range(int((right - left).max())):
        x = left + step
        cells = lines + x.clamp(max=width - 1)[:, None]
        values = table.index_select(0, cells.flatten()).view(best.shape)
        x = x.masked_fill(x >= right, width)
        higher = (x < width)[:, None, :, None] & (values > best)
        best = torch.where(higher, values, best)
        at = torch.where(higher, x[:, None, :, None], at)

    shape = (len(top), top.shape[1], left.shape[1], channels)
    row_best, row_at = best, at
    best = table.new_full(shape, lowest)
    at = torch.full(shape, -1, dtype=torch.int32, device=table.device)
    number = torch.arange(len(top), device=top.device)[:, None]
    for step in range(int((bottom - top).max())):
        y = top + step
        line = (y - first).clamp(max=rows - 1)
        values = row_best[number, line]
        higher = (y < bottom)[:, :, None, None] & (values > best)
        best = torch.where(higher, values, best)
        at = torch.where(higher, y[:, :, None, None] * width + row_at[number, line], at)
    empty = (bottom <= top)[:, :, None, None] | (right <= left)[:, None, :, None]
    return best.masked_fill(empty, 0), at


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of each maximum to its cell in ``grad_input`` ``(B, C, H, W)``."""
    if not len(rois):
        return
    channels, height, width = grad_input.shape[1:]
    grad = wide(grad_output).masked_fill(argmax < 0, 0)
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    cells = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    sums = grad.new_zeros(grad_input.numel())
    sums.index_add_(0, cells.flatten(), grad.flatten())
    grad_input += sums.view(grad_input.shape)

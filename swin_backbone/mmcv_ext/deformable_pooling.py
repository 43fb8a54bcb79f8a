"""Deformable RoI pooling (Dai et al. 2017, section 2.2), with the coordinates of RoIAlign."""

from __future__ import annotations

import torch
from torch import Tensor

from .bilinear import bag_sums, pixels
from .calling import batches, operator, wide


@operator
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Writes the mean of the samples of each bin.

    Args:
        input: Maps (B, C, H, W).
        rois: Index of the map, x1, y1, x2, y2 in image pixels (N, 5).
        offset: Offset of each bin, x before y, relative to the region's width and height
            (N, 2, pooled_height, pooled_width); or empty.
        output: Overwritten, (N, C, pooled_height, pooled_width).
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Map pixels per image pixel.
        sampling_ratio: Samples along each side of a bin; 0 for one per map pixel, rounded up.
        gamma: Factor of the offsets.
    """
    size = pooled_height, pooled_width
    table, regions = pixels(wide(input)), _Regions(rois, size, spatial_scale, sampling_ratio)
    for part in regions.parts():
        shift = gamma * wide(offset[part]) if offset.numel() else None
        output[part] = regions.pooled(part, table, shift, input.shape[2:])


@operator
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Adds to the gradients of maps and offsets; see :func:`deform_roi_pool_forward`.

    The gradient of offsets is the exact derivative: it is 0 across the map's edge for samples that
    are clamped to that edge. mmcv's CUDA kernel extrapolates there.
    """
    size = pooled_height, pooled_width
    regions = _Regions(rois, size, spatial_scale, sampling_ratio)
    table = pixels(wide(input)).requires_grad_()
    total = torch.zeros_like(table)
    for part in regions.parts():
        shift = wide(offset[part].detach()).requires_grad_() if offset.numel() else None
        with torch.enable_grad():
            scaled = gamma * shift if shift is not None else None
            output = regions.pooled(part, table, scaled, input.shape[2:])
        leaves = [table] if shift is None else [table, shift]
        grads = torch.autograd.grad(output, leaves, wide(grad_output[part]))
        total += grads[0]
        if shift is not None:
            grad_offset[part] += grads[1]
    B, C, H, W = input.shape
    grad_input += total[:-1].view(B, H, W, C).permute(0, 3, 1, 2)


class _Regions:
    """Positions of regions on the maps, and the number of samples per bin of each."""

    def __init__(self, rois: Tensor, bins: tuple[int, int], scale: float, ratio: int) -> None:
        self.bins = bins
        self.map = rois[:, 0].long()
        corners = wide(rois[:, 1:]) * scale - 0.5
        self.start = corners[:, [1, 0]]  # y, x
        self.extent = corners[:, [3, 2]] - self.start
        size = self.extent / self.extent.new_tensor(bins)
        self.samples = torch.full_like(size, ratio) if ratio > 0 else size.ceil().clamp(min=0)
        self.samples = self.samples.long()

    def parts(self) -> list[slice]:
        """Slices of the regions, which bound the number of samples."""
        if len(self.map) == 0:
            return []
        most = 4 * int(self.samples.prod(1).max()) * self.bins[0] * self.bins[1]
        return batches(len(self.map), most)

    def pooled(self, part: slice, table: Tensor, shift: Tensor | None, size: torch.Size) -> Tensor:
        """Means of the bins (n, C, bins, bins) of a slice of the regions."""
        start, extent, samples = self.start[part], self.extent[part], self.samples[part]
        n, (rows, columns) = len(start), self.bins
        count = samples.prod(1)  # of each bin
        # The samples of all bins of all regions in turn: their bin, and their number in it.
        bag = torch.arange(n * rows * columns, device=table.device)
        of_bag = count.repeat_interleave(rows * columns)
        bag = bag.repeat_interleave(of_bag)
        first = of_bag.cumsum(0) - of_bag
        i = torch.arange(len(bag), device=table.device) - first[bag]
        region, bin = bag // (rows * columns), bag % (rows * columns)
        across = samples[region, 1]
        places = [(bin // columns, i // across), (bin % columns, i % across)]
        position = []
        for axis, (which, sample) in enumerate(places):
            length = extent[:, axis][region]
            side = length / self.bins[axis]
            inside = (sample + 0.5) * side / samples[region, axis]
            begin = start[:, axis][region]
            if shift is not None:  # x before y
                begin = begin + shift[:, 1 - axis].reshape(-1)[bag] * length
            position.append(begin + which * side + inside)
        entries, there, weights = self._entries(position, self.map[part][region], size)
        entries = torch.where(there[:, None], entries, len(table) - 1)
        weights = weights / count[region][:, None]
        sums = bag_sums(table, entries.view(-1), weights.view(-1), 4 * first)
        return sums.view(n, rows, columns, -1).permute(0, 3, 1, 2)

    @staticmethod
    def _entries(
        position: list[Tensor], maps: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The four pixels around each position (samples, 4), whether they are used, their weights.

        As in RoIAlign, positions up to one pixel outside of the map are clamped to its edge, and
        samples farther outside are not used.
        """
        there = torch.ones_like(maps, dtype=torch.bool)
        for at, length in zip(position, size, strict=True):
            there = there & (at >= -1) & (at <= length)
        low, high, part = [], [], []
        for at, length in zip(position, size, strict=True):
            at = torch.where(there, at, 0).clamp(0, length - 1)
            low.append(at.detach().floor().long())
            high.append((low[-1] + 1).clamp(max=length - 1))
            part.append(at - low[-1])
        (top, left), (bottom, right), (y, x) = low, high, part
        rows = torch.stack([top, top, bottom, bottom], -1)
        columns = torch.stack([left, right, left, right], -1)
        weights = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], -1)
        entries = (maps[:, None] * size[0] + rows) * size[1] + columns
        return entries, there, weights

"""Pooling of regions of a map: ``roi_align`` and ``roi_align_rotated``.

The mean of bilinear samples is a weighted sum of cells of the map, which ``embedding_bag``
computes: the map is a table with one row per cell, and each bin of each region is a bag of rows.
The gradient is a weighted sum of bins for each cell: the same call with exchanged roles, without
atomic additions. Coordinates are computed in the compiled operators' order of operations, because
samples just outside of the map are zero. Half precision is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .calling import wide
from .overlaps import rounded
from .torchvision_ops import operator

# Largest number of cells that are processed at once, at about 20 bytes each.
TAPS = 1 << 21


class Bags(NamedTuple):
    """The weighted cells of some regions' bins."""

    regions: Any  # an index of the regions: a slice or a tensor (M,)
    cells: Tensor  # rows of the table (M, bins, K), int32
    weights: Tensor  # (M, bins, K)


def _table(x: Tensor) -> Tensor:
    """A map ``(B, C, H, W)`` as rows of channels ``(B * H * W, C)``."""
    return wide(x).permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _write(out: Tensor, rows: Tensor) -> None:
    """Writes rows of channels to an ``out`` of shape ``(B, C, H, W)``."""
    b, c, h, w = out.shape
    out.copy_(rows.view(b, h, w, c).permute(0, 3, 1, 2))


def _samples(start: Tensor, bin_size: Tensor, bins: int, grid: int) -> Tensor:
    """Coordinates ``(M, bins, grid)`` of samples along one side of regions."""
    number = torch.arange(bins, device=start.device)[:, None]
    within = torch.arange(grid, device=start.device, dtype=start.dtype) + 0.5
    start, bin_size = start[:, None, None], bin_size[:, None, None]
    return start + number * bin_size + within * bin_size / grid


def _neighbours(x: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells below and above coordinates, and their weights in linear interpolation.

    Coordinates up to one cell outside of the map are clamped to its border; others have weight 0.
    """
    inside = ((x >= -1) & (x <= size)).to(x.dtype)
    x = x.clamp(0, size - 1)
    low = x.int()  # rounds down: none is negative
    fraction = x - low
    return low, (low + 1).clamp(max=size - 1), (1 - fraction) * inside, fraction * inside


def _line(x: Tensor, size: int, dense: bool) -> tuple[Tensor, Tensor]:
    """The cells along one side and their weights ``(M, bins, K)`` in the mean of samples.

    Args:
        x: Coordinates of samples ``(M, bins, grid)``.
        size: Number of cells.
        dense: Whether samples are at most one cell apart, so that they cover at most ``grid + 1``
            cells.
    """
    grid = x.shape[-1]
    low, high, low_weight, high_weight = _neighbours(x, size)
    weights = torch.cat([low_weight, high_weight], -1) / grid
    cells = torch.cat([low, high], -1)
    if not dense or grid == 1:
        return cells, weights
    first = low[..., :1]
    merged = weights.new_zeros(*x.shape[:2], grid + 1)
    # A cell beyond the last one is due to rounding, with a weight of about 0.
    merged.scatter_add_(-1, (cells - first).clamp(max=grid).long(), weights)
    along = torch.arange(grid + 1, device=x.device, dtype=torch.int32)
    return (first + along).clamp(max=size - 1), merged


class Regions:
    """Regions of a map, upright ``(x1, y1, x2, y2)`` or rotated ``(x, y, w, h, angle)``.

    Args:
        rois: Regions ``(N, 5)`` or ``(N, 6)``; the first column is the index of the image.
        dtype: Dtype of computation.
        shape: Shape of the map, ``(B, C, H, W)``.
        bins: Number of bins ``(rows, columns)``.
        scale: Cells of the map per unit of the regions.
        sampling_ratio: Samples along each side of a bin; 0 for about one per cell.
        aligned: Whether the center of the first cell is at 0.5.
        clockwise: Direction of angles.
    """

    def __init__(
        self,
        rois: Tensor,
        dtype: torch.dtype,
        shape: torch.Size,
        bins: tuple[int, int],
        scale: float,
        sampling_ratio: int,
        aligned: bool,
        clockwise: bool = False,
    ) -> None:
        image, *sides = rois.to(dtype).unbind(1)
        self.image = image.int()
        self.shape = shape
        self.bins = bins
        self.sampling_ratio = sampling_ratio
        offset = 0.5 if aligned else 0.0
        scale = rounded(scale)
        self.rotated = len(sides) == 5
        if self.rotated:
            x, y, w, h, angle = sides
            self.x, self.y = x * scale - offset, y * scale - offset
            w, h = w * scale, h * scale
            angle = -angle if clockwise else angle
            self.cos, self.sin = angle.cos(), angle.sin()
        else:
            self.x, self.y, right, bottom = (side * scale - offset for side in sides)
            w, h = right - self.x, bottom - self.y
        if not aligned:
            w, h = w.clamp(min=1), h.clamp(min=1)
        elif rois.is_cpu and len(rois) and min(w.min(), h.min()) < 0:
            # As in the compiled CPU operators; the CUDA operators do not check.
            raise RuntimeError('the width and height of aligned regions must not be negative')
        self.w, self.h = w, h
        self.bin_h, self.bin_w = h / bins[0], w / bins[1]

    def __len__(self) -> int:
        return len(self.image)

    def groups(self, most: int | None = None) -> Iterator[tuple[Any, int, int]]:
        """Groups of regions with the same number of samples per bin: indices, rows, columns.

        A group has at most ``most`` regions, by default as many as have ``TAPS`` cells.
        """
        number = self.sampling_ratio
        if number > 0:
            yield from self._parts(slice(0, len(self)), number, number, most)
            return
        # The compiled operators round in float32.
        grids = torch.stack([self.bin_h, self.bin_w], 1).float().ceil().int().cpu().numpy()
        kinds, kind = np.unique(grids, axis=0, return_inverse=True)
        kind = kind.reshape(-1)
        for i, (rows, columns) in enumerate(kinds.tolist()):
            if rows > 0 and columns > 0:
                index = torch.from_numpy(np.flatnonzero(kind == i)).to(self.x.device)
                yield from self._parts(index, rows, columns, most)

    def _parts(
        self, index: Any, rows: int, columns: int, most: int | None
    ) -> Iterator[tuple[Any, int, int]]:
        """Splits a group to bound memory."""
        step = most or max(1, TAPS // (4 * rows * columns * self.bins[0] * self.bins[1]))
        count = len(self) if isinstance(index, slice) else len(index)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            yield (part if isinstance(index, slice) else index[part]), rows, columns

    def points(self, index: Any, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """y ``(M, bins, rows)`` and x ``(M, bins, columns)`` of samples along regions' sides."""
        top, left = self.y[index], self.x[index]
        if self.rotated:
            top, left = -self.h[index] / 2, -self.w[index] / 2  # from the center
        y = _samples(top, self.bin_h[index], self.bins[0], rows)
        return y, _samples(left, self.bin_w[index], self.bins[1], columns)

    def bags(self) -> Iterator[Bags]:
        """The weighted cells of all bins, for some regions at a time."""
        _, _, height, width = self.shape
        for index, rows, columns in self.groups():
            y, x = self.points(index, rows, columns)
            image = self.image[index] * (height * width)
            if self.rotated:
                cells, weights = self._rotated(index, y, x)
                yield Bags(index, cells + image[:, None, None], weights)
                continue
            dense = self.sampling_ratio <= 0
            y_cells, y_weights = _line(y, height, dense)
            x_cells, x_weights = _line(x, width, dense)
            y_cells = y_cells * width + image[:, None, None]
            # (M, rows of bins, columns of bins, rows of cells, columns of cells)
            cells = y_cells[:, :, None, :, None] + x_cells[:, None, :, None, :]
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
            yield Bags(index, cells.flatten(3).flatten(1, 2), weights.flatten(3).flatten(1, 2))

    def _rotated(self, index: Any, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The cells of one image and their weights ``(M, bins, 4 * samples)``."""
        _, _, height, width = self.shape
        cos, sin, left, top = (
            v[index][:, None, None, None, None] for v in (self.cos, self.sin, self.x, self.y)
        )
        y, x = y[:, :, None, :, None], x[:, None, :, None, :]
        y, x = y * cos - x * sin + top, y * sin + x * cos + left
        y, x = (v.flatten(3).flatten(1, 2) for v in (y, x))
        y_low, y_high, y_low_weight, y_high_weight = _neighbours(y, height)
        x_low, x_high, x_low_weight, x_high_weight = _neighbours(x, width)
        corners = [
            (y_cell * width + x_cell, y_weight * x_weight)
            for y_cell, y_weight in ((y_low, y_low_weight), (y_high, y_high_weight))
            for x_cell, x_weight in ((x_low, x_low_weight), (x_high, x_high_weight))
        ]
        cells, weights = (torch.cat(values, -1) for values in zip(*corners, strict=True))
        return cells, weights / y.shape[-1]

    def mean(self, x: Tensor, out: Tensor) -> None:
        """Writes the means of samples to ``out`` ``(N, C, bins, bins)``."""
        table = _table(x)
        if self.sampling_ratio <= 0:
            out.zero_()  # bins without samples
        for regions, cells, weights in self.bags():
            sums = F.embedding_bag(
                cells.flatten(0, 1), table, mode='sum', per_sample_weights=weights.flatten(0, 1)
            )
            sums = sums.view(-1, *self.bins, x.shape[1]).permute(0, 3, 1, 2)
            out[regions] = sums.to(out.dtype)

    def mean_backward(self, grad: Tensor, grad_input: Tensor) -> None:
        """Adds the gradient of the means to ``grad_input`` ``(B, C, H, W)``."""
        table = _table(grad)  # a row for each bin
        numbers = torch.arange(len(table), device=grad.device, dtype=torch.int32)
        numbers = numbers.view(len(self), -1, 1)
        total = 0
        waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        for regions, cells, weights in self.bags():
            bins = numbers[regions].expand_as(cells)
            waiting.append((cells.flatten(), weights.flatten(), bins.flatten()))
            total += cells.numel()
            if total > TAPS:
                self._spread(waiting, table, grad_input)
                total, waiting = 0, []
        if waiting:
            self._spread(waiting, table, grad_input)

    @staticmethod
    def _spread(
        parts: list[tuple[Tensor, Tensor, Tensor]], table: Tensor, grad_input: Tensor
    ) -> None:
        """Adds to each cell the weighted rows of the bins that contain it."""
        cells, weights, bins = (torch.cat(values) for values in zip(*parts, strict=True))
        batch, channels, height, width = grad_input.shape
        order = _ascending(cells)
        counts = torch.bincount(cells, minlength=batch * height * width)
        ends = counts.cumsum(0)
        sums = F.embedding_bag(
            bins[order],
            table,
            (ends - counts).int(),
            mode='sum',
            per_sample_weights=weights[order],
        )
        grad_input += sums.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _ascending(x: Tensor) -> Tensor:
    """The order of ascending values. NumPy sorts on the CPU: torch would start its threads."""
    return torch.from_numpy(np.argsort(x.numpy())) if x.is_cpu else x.argsort()


def _compiled(name: str, x: Tensor, sampling_ratio: int) -> Any:
    """torchvision's operator if it gives mmcv's results on a tensor's device, else None.

    torchvision rounds the number of samples in the dtype of the regions, mmcv in float32. Its
    gradient on CUDA is not deterministic; this module's is.
    """
    if x.dtype == torch.float64 and sampling_ratio <= 0:
        return None
    return None if torch.are_deterministic_algorithms_enabled() else operator(name, x)


@torch.no_grad()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pools bilinear samples of regions (He et al., Mask R-CNN, 2017).

    Args:
        input: A map ``(B, C, H, W)``.
        rois: Regions ``(N, 5)`` as ``(image, x1, y1, x2, y2)``.
        output: Overwritten with the pooled regions ``(N, C, aligned_height, aligned_width)``.
        argmax_y: Overwritten with the y of the highest samples, if ``pool_mode`` is 0.
        argmax_x: Overwritten with their x.
        aligned_height: Rows of bins.
        aligned_width: Columns of bins.
        spatial_scale: Cells of the map per unit of the regions.
        sampling_ratio: Samples along each side of a bin; 0 for about one per cell.
        pool_mode: 0 for the maximum of a bin's samples, 1 for their mean.
        aligned: Whether the center of the first cell is at 0.5 instead of 0.
    """
    if not len(rois):
        return
    x = wide(input)
    bins = (aligned_height, aligned_width)
    regions = Regions(rois, x.dtype, x.shape, bins, spatial_scale, sampling_ratio, aligned)
    if pool_mode == 0:
        _maximum(regions, x, output, argmax_y, argmax_x)
        return
    compiled = _compiled('roi_align', x, sampling_ratio)
    if compiled is None:
        regions.mean(x, output)
    else:
        scale = rounded(spatial_scale)
        output.copy_(compiled(x, rois.to(x.dtype), scale, *bins, sampling_ratio, aligned))


@torch.no_grad()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of ``roi_align_forward`` with respect to its input to ``grad_input``."""
    if not len(rois):
        return
    grad = wide(grad_output)
    bins = (aligned_height, aligned_width)
    if pool_mode == 0:
        _maximum_backward(grad, rois, argmax_y, argmax_x, grad_input)
        return
    shape = grad_input.shape
    regions = Regions(rois, grad.dtype, shape, bins, spatial_scale, sampling_ratio, aligned)
    compiled = _compiled('_roi_align_backward', grad, sampling_ratio)
    if compiled is None:
        regions.mean_backward(grad, grad_input)
    else:
        scale = rounded(spatial_scale)
        rois = rois.to(grad.dtype)
        grad_input += compiled(grad, rois, scale, *bins, *shape, sampling_ratio, aligned)


def _maximum(regions: Regions, x: Tensor, out: Tensor, argmax_y: Tensor, argmax_x: Tensor) -> None:
    """Writes the first of the highest samples of each bin, and its position."""
    _, channels, height, width = x.shape
    table = _table(x)
    # The initial value of the compiled operators, which remains if all samples are lower.
    lowest = -10000.0 if x.is_cpu else torch.finfo(torch.float32).min
    shape = (len(regions), *regions.bins, channels)
    best = table.new_full(shape, lowest)
    best_y, best_x = table.new_full(shape, -1), table.new_full(shape, -1)
    # On a CPU, few enough to stay in the cache while samples are compared.
    numbers = 1 << 17 if x.is_cpu else TAPS
    most = max(1, numbers // (regions.bins[0] * regions.bins[1] * channels))
    for index, rows, columns in regions.groups(most):
        ys, xs = regions.points(index, rows, columns)
        image = regions.image[index][:, None] * height
        value, at_y, at_x = best[index], best_y[index], best_x[index]
        for y, x_ in ((y, x_) for y in ys.unbind(-1) for x_ in xs.unbind(-1)):
            y_low, y_high, y_low_weight, y_high_weight = _neighbours(y, height)
            x_low, x_high, x_low_weight, x_high_weight = _neighbours(x_, width)
            sample = torch.zeros_like(value)
            for y_cell, y_weight in ((y_low, y_low_weight), (y_high, y_high_weight)):
                y_cell = ((image + y_cell) * width)[:, :, None]
                for x_cell, x_weight in ((x_low, x_low_weight), (x_high, x_high_weight)):
                    weight = y_weight[:, :, None] * x_weight[:, None]
                    cells = (y_cell + x_cell[:, None]).flatten()
                    # Not fused, in order to break ties like the compiled operators.
                    sample += weight[..., None] * table.index_select(0, cells).view(sample.shape)
            higher = sample > value
            value = torch.where(higher, sample, value)
            at_y = torch.where(higher, y[:, :, None, None], at_y)
            at_x = torch.where(higher, x_[:, None, :, None], at_x)
        best[index], best_y[index], best_x[index] = value, at_y, at_x
    for buffer, values in ((out, best), (argmax_y, best_y), (argmax_x, best_x)):
        _write(buffer, values)


def _maximum_backward(
    grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> None:
    """Sends each bin's gradient to the cells around its highest sample."""
    _, channels, height, width = grad_input.shape
    y, x = argmax_y.to(grad.dtype), argmax_x.to(grad.dtype)
    grad = grad.masked_fill(y == -1, 0)  # bins without samples
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    plane = plane[:, :, None, None] * height
    y_low, y_high, y_low_weight, y_high_weight = _neighbours(y, height)
    x_low, x_high, x_low_weight, x_high_weight = _neighbours(x, width)
    sums = grad.new_zeros(grad_input.numel())
    for y_cell, y_weight in ((y_low, y_low_weight), (y_high, y_high_weight)):
        for x_cell, x_weight in ((x_low, x_low_weight), (x_high, x_high_weight)):
            cells = (plane + y_cell) * width + x_cell
            sums.index_add_(0, cells.flatten(), (grad * (y_weight * x_weight)).flatten())
    grad_input += sums.view(grad_input.shape)


@torch.no_grad()
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Means of bilinear samples of rotated regions.

    Args:
        input: A map ``(B, C, H, W)``.
        rois: Regions ``(N, 6)`` as ``(image, x, y, w, h, angle)``, the angle in radians.
        output: Overwritten with the pooled regions ``(N, C, pooled_height, pooled_width)``.
        pooled_height: Rows of bins.
        pooled_width: Columns of bins.
        spatial_scale: Cells of the map per unit of the regions.
        sampling_ratio: Samples along each side of a bin; 0 for about one per cell.
        aligned: Whether the center of the first cell is at 0.5 instead of 0.
        clockwise: Whether angles are from x to y.
    """
    if not len(rois):
        return
    x = wide(input)
    bins = (pooled_height, pooled_width)
    shape = x.shape
    regions = Regions(rois, x.dtype, shape, bins, spatial_scale, sampling_ratio, aligned, clockwise)
    regions.mean(x, output)


@torch.no_grad()
def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Adds the gradient of ``roi_align_rotated_forward`` to ``grad_input``.

    The first three arguments are positional: the compiled operator has other names for them.
    """
    if not len(rois):
        return
    grad = wide(grad_output)
    bins = (pooled_height, pooled_width)
    shape = grad_input.shape
    dtype = grad.dtype
    regions = Regions(rois, dtype, shape, bins, spatial_scale, sampling_ratio, aligned, clockwise)
    regions.mean_backward(grad, grad_input)

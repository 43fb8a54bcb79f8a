"""Adaptive average pooling that can be exported for dynamic sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ops.sizes import ceil_div


class AnySizePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as products with two matrices that are computed from the map's size.

    ONNX has no adaptive pooling. Exporters replace it by pooling with a fixed kernel, which gives
    other results at other sizes.

    Args:
        output_size: (rows, columns) of the output.
    """

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, rows, columns)."""
        rows = _bins(x.shape[2], self.output_size[0], x)
        columns = _bins(x.shape[3], self.output_size[1], x)
        return rows @ x @ columns.transpose(0, 1)


def any_size_pooling(model: nn.Module) -> None:
    """Replaces the adaptive average poolings within a model, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.AdaptiveAvgPool2d:
                continue
            size = child.output_size
            rows, columns = size if isinstance(size, tuple | list) else (size, size)
            if rows is not None and columns is not None:
                setattr(parent, name, AnySizePool((rows, columns)))


def _bins(length: int, bins: int, like: Tensor) -> Tensor:
    """(bins, length): the weight of each element in each mean, over ⌊iL/b⌋ ≤ j < ⌈(i+1)L/b⌉."""
    edges = [(i * length // bins, ceil_div((i + 1) * length, bins)) for i in range(bins)]
    position = torch.arange(length, device=like.device)
    rows = [
        ((position >= start) & (position < stop)).to(like.dtype) / (stop - start)
        for start, stop in edges
    ]
    return torch.stack(rows)

"""How the tests of operators compare results, and what they compare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


def agree(ours: Tensor, wanted: Tensor, dtype: torch.dtype | None = None) -> None:
    """Asserts that tensors agree as ``dtype`` can hold them, for their largest element's size."""
    assert ours.shape == wanted.shape
    if wanted.numel() == 0:
        return
    ours, wanted = ours.detach().double(), wanted.detach().double()
    assert ours.isfinite().all() and wanted.isfinite().all()
    scale = max(1.0, wanted.abs().max().item())
    most = (ours - wanted).abs().max().item()
    limit = TOLERANCE[dtype or torch.float64] * scale
    assert most <= limit, f'differ by {most:.3g}, more than {limit:.3g}'


def bilinear(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A sample of a plane (H, W), beyond whose pixels are zeros; differentiable, one by one."""
    H, W = plane.shape
    if not (-1 < y < H and -1 < x < W):
        return (plane * 0).sum()
    top, left = math.floor(y.item()), math.floor(x.item())
    total = (plane * 0).sum()
    for row, by_row in ((top, top + 1 - y), (top + 1, y - top)):
        for column, by_column in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < H and 0 <= column < W:
                total = total + by_row * by_column * plane[row, column]
    return total

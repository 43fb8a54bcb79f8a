"""Inputs of operators that hypothesis draws, and comparisons of their outputs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch
from hypothesis import strategies as st
from torch import Tensor

# Corners on a grid make samples and sides meet; flat boxes have no width, inverted ones less.
KINDS = ('real', 'grid', 'flat')
seeds = st.integers(0, 2**32 - 1)
types = st.sampled_from([torch.float32, torch.float64])
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Drawn:
    """Random numbers from a seed."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        x = torch.rand(*shape, generator=self.generator, dtype=torch.float64)
        return (x * (high - low) + low).to(self.dtype)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def index(self, count: int, high: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator)

    def boxes(self, count: int, kind: str = 'real', low: float = 0, high: float = 60) -> Tensor:
        """Boxes ``(count, 4)`` as ``(x1, y1, x2, y2)``; some flat ones, of that kind."""
        corner = self.uniform(count, 2, low=low, high=high)
        sides = self.uniform(count, 2, high=(high - low) / 2)
        if kind == 'grid':
            corner, sides = (corner / 4).round() * 4, (sides / 4).round() * 4
        if kind == 'flat':
            sides = sides * self.index(count * 2, 2).view(count, 2)
        return torch.cat([corner, corner + sides], 1)

    def rotated(self, count: int, kind: str = 'real', low: float = 0, high: float = 40) -> Tensor:
        """Boxes ``(count, 5)`` as ``(x, y, w, h, angle)``."""
        boxes = self.boxes(count, kind, low, high)
        sides = boxes[:, 2:] - boxes[:, :2]
        angle = self.uniform(count, 1, low=-7, high=7)
        if kind == 'grid':
            angle = (angle * 2).round() * (torch.pi / 4)
        return torch.cat([boxes[:, :2], sides if kind == 'flat' else sides + 4, angle], 1)

    def scores(self, count: int, steps: int | None) -> Tensor:
        """Scores ``(count,)``, equal ones among them if they are in steps."""
        scores = self.uniform(count)
        return scores if steps is None else (scores * steps).round() / steps

    def regions(self, boxes: Tensor, images: int) -> Tensor:
        """Boxes with indices of images, in no order."""
        return torch.cat([self.index(len(boxes), images).to(boxes)[:, None], boxes], 1)


def assert_close(got: Tensor, wanted: Tensor, tolerance: float | None = None) -> None:
    """Compares relative to the largest value, but at least 1; NaN and infinite values are equal."""
    if tolerance is None:
        tolerance = TOLERANCES[got.dtype]
    finite = wanted[wanted.isfinite()]
    scale = max(1.0, finite.abs().max().item()) if len(finite) else 1.0
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale, equal_nan=True)


@contextmanager
def wrappers_call(module: str, ext: ModuleType):
    """Makes the functions of ``mmcv.ops.<module>`` call the operators of another extension."""
    import_module('mmcv.ops')
    wrapper = sys.modules[f'mmcv.ops.{module}']  # the attribute may be a function of that name
    own, wrapper.ext_module = wrapper.ext_module, ext
    try:
        yield
    finally:
        wrapper.ext_module = own

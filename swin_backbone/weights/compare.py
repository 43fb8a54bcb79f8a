"""Compares the backbones of two checkpoints in any layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .conversion import to_openmmlab
from .coords_table import TABLE
from .tensors import is_dense


@dataclass(frozen=True)
class Comparison:
    """The differences between checkpoints A and B, by OpenMMLab's keys.

    Attributes:
        layout_a: Name of A's layout.
        layout_b: Name of B's layout.
        compared: Number of weights that both have.
        only_a: Keys that only A has.
        only_b: Keys that only B has.
        shapes: Both shapes of weights whose shapes differ.
        values: The largest absolute difference of weights for which it exceeds the tolerance.
    """

    layout_a: str
    layout_b: str
    compared: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    values: Mapping[str, float]

    @property
    def same(self) -> bool:
        """Whether there are no differences."""
        return not (self.only_a or self.only_b or self.shapes or self.values)


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.0, prefix: str | None = None
) -> Comparison:
    """Compares two checkpoints.

    Args:
        a: The content of a file, or any state dict.
        b: The other one.
        tolerance: Absolute differences up to this count as equal.
        prefix: Prefix of the backbone in both, if there are several.

    Raises:
        CheckpointError: One holds no Swin Transformer, or is on the meta device.
    """
    layout_a, weights_a = _weights(a, prefix)
    layout_b, weights_b = _weights(b, prefix)
    both = [key for key in weights_a if key in weights_b]
    shapes, values = {}, {}
    for key in both:
        left, right = weights_a[key], weights_b[key]
        if left.shape != right.shape:
            shapes[key] = tuple(left.shape), tuple(right.shape)
        elif not (difference := _difference(left, right)) <= tolerance:  # NaN is a difference
            values[key] = difference
    return Comparison(
        layout_a,
        layout_b,
        len(both),
        tuple(key for key in weights_a if key not in weights_b),
        tuple(key for key in weights_b if key not in weights_a),
        shapes,
        values,
    )


def _weights(checkpoint: Mapping[str, Any], prefix: str | None) -> tuple[str, dict[str, Tensor]]:
    layout, weights = to_openmmlab(checkpoint, prefix=prefix)
    weights = {k: v for k, v in weights.items() if is_dense(v) and not k.endswith(TABLE)}
    if empty := [key for key, value in weights.items() if value.is_meta]:
        raise CheckpointError(f'{empty[0]} is on the meta device, and has no values to compare')
    return layout.name, weights


def _difference(left: Tensor, right: Tensor) -> float:
    if not left.numel():
        return 0.0
    wide = torch.complex128 if left.is_complex() or right.is_complex() else torch.float64
    return (left.to(wide) - right.to(wide)).abs().max().item()

"""The trial of patch merging's Triton kernels."""

from __future__ import annotations

from functools import partial

from ..trial import Comparison, Draw, Trial
from . import reference, triton


def _comparison(draw: Draw, C: int) -> Comparison:
    """A map with odd sides."""
    norm = draw.parameter(4 * C), draw.parameter(4 * C)
    tensors = draw.map(2, 5, 7, C), *norm, draw.parameter(2 * C, 4 * C, inputs=C)
    ours, exact = (partial(op.patch_merging, eps=1e-5) for op in (triton, reference))
    return Comparison(tensors, ours, exact)


TRIAL = Trial(_comparison, 'merges patches on GPUs module by module')

"""Arithmetic of sizes in forms that exporters and compilers can simplify.

Each function has two equivalent forms. Exporters take minutes to simplify symbolic sizes with
nested negations, stage by stage. With the other form, inductor (torch 2.13) cannot decide which of
two strides is larger.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .recording import exporting, tracing


def ceil_div(length: int, step: int) -> int:
    """``length / step``, rounded up."""
    if exporting():
        return (length + step - 1) // step
    return -(-length // step)


def lacking(length: int, step: int) -> int:
    """What must be added to ``length`` to get a multiple of ``step``."""
    if exporting():
        return ceil_div(length, step) * step - length
    return -length % step


def unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """``x.unflatten(dim, sizes)`` in a form that stays valid for all sizes in a traced graph.

    TorchScript's ONNX exporter does not support ``unflatten`` before operator set 13, and from then
    on it exports the sizes of the other axes as constants.
    """
    if not tracing():
        return x.unflatten(dim, sizes)
    # Each size is read by itself: a tracer records `shape[i]`, but not a slice of `shape`.
    shape = [x.shape[axis] for axis in range(x.dim())]
    dim %= len(shape)
    return x.reshape(*shape[:dim], *sizes, *shape[dim + 1 :])


def padded_tokens(B: int, H: int, W: int, window_size: int) -> int:
    """Number of tokens of B maps (H, W) that are padded to whole windows."""
    return B * ceil_div(H, window_size) * ceil_div(W, window_size) * window_size**2

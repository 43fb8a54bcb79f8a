"""Caches tensors that are computed from parameters, until a parameter changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops.recording import value_only


class _Source(NamedTuple):
    """A parameter's state. The alias keeps its memory, so that the address is not reused."""

    tensor: weakref.ref
    alias: Tensor
    version: int

    def is_unchanged(self, tensor: Tensor) -> bool:
        return (
            self.tensor() is tensor
            and self.version == tensor._version
            and self.alias.data_ptr() == tensor.data_ptr()
            and self.alias.dtype == tensor.dtype
        )


class _Entry(NamedTuple):
    key: Hashable
    sources: list[_Source]
    value: Tensor


class TensorCache:
    """A few tensors, each recomputed after one of its source parameters has changed.

    In-place writes, new storage and replaced parameters are detected. Writes through
    ``parameter.data`` are not, so :meth:`clear` must be called when training or evaluation begins.
    Copies and pickles are empty. Threads may share a cache.
    """

    most = 4

    def __init__(self) -> None:
        self._entries: tuple[_Entry, ...] = ()

    def __reduce__(self) -> tuple:
        return TensorCache, ()

    def __deepcopy__(self, memo: dict) -> TensorCache:
        return TensorCache()

    def clear(self) -> None:
        """Empties the cache."""
        self._entries = ()

    def get(
        self, key: Hashable, sources: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """``compute()``, or its cached result for the same key and unchanged sources."""
        if sources and sources[0].is_cuda:  # another stream may not have waited for it
            key = key, torch.cuda.current_stream(sources[0].device).stream_id
        for entry in self._entries:
            if entry.key == key and len(entry.sources) == len(sources):
                if all(map(_Source.is_unchanged, entry.sources, sources)):
                    return entry.value
                break
        value = compute()
        seen = [_Source(weakref.ref(t), t.detach(), t._version) for t in sources]
        others = [entry for entry in self._entries if entry.key != key]
        # One assignment, so that other threads read either the old or the new entries.
        self._entries = (_Entry(key, seen, value), *others[: self.most - 1])
        return value


def may_be_cached(sources: Sequence[Tensor]) -> bool:
    """Whether a result computed from ``sources`` may be cached.

    Only its value must be needed (:func:`~swin_backbone.ops.recording.value_only`), and changes of
    the sources must be detectable; a fused optimizer's step on a parameter with a gradient is not.
    """
    return value_only() and all(
        type(t) in (Tensor, nn.Parameter) and not t.is_inference() and t.is_leaf and t.grad is None
        for t in sources
    )

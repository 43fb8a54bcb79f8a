"""What follows from parameters alone, kept between calls for as long as they are the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops.recording import value_only


class _Source(NamedTuple):
    """A tensor as it was. The alias keeps its memory, so that no other can get its address."""

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


class ComputedOnce:
    """A few tensors, each computed again once a parameter that it follows from has changed.

    Written to in place, given other memory, or replaced: all that is seen. What is written through
    ``parameter.data`` is not, which is why :meth:`clear` must be called when training or evaluation
    begins. Copies and pickles of it are empty. Threads may share it.
    """

    most = 4

    def __init__(self) -> None:
        self._entries: tuple[_Entry, ...] = ()

    def __reduce__(self) -> tuple:
        return ComputedOnce, ()

    def __deepcopy__(self, memo: dict) -> ComputedOnce:
        return ComputedOnce()

    def clear(self) -> None:
        """Forgets all."""
        self._entries = ()

    def get(
        self, key: Hashable, sources: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """``compute()``, or what it was for the same key and unchanged sources."""
        if sources and sources[0].is_cuda:  # others' streams may not have waited for it
            key = key, torch.cuda.current_stream(sources[0].device).stream_id
        for entry in self._entries:
            if entry.key == key and len(entry.sources) == len(sources):
                if all(map(_Source.is_unchanged, entry.sources, sources)):
                    return entry.value
                break
        value = compute()
        seen = [_Source(weakref.ref(t), t.detach(), t._version) for t in sources]
        others = [entry for entry in self._entries if entry.key != key]
        # One assignment: whoever reads meanwhile has the old entries or the new.
        self._entries = (_Entry(key, seen, value), *others[: self.most - 1])
        return value


def may_be_kept(sources: Sequence[Tensor]) -> bool:
    """Whether what is computed now is wanted as a value alone, and its sources can be watched.

    Not where gradients may be, nor where a tracer, counter or CUDA graph records the computation
    itself; nor for parameters that have a gradient, since a fused optimizer's step is not seen.
    """
    return value_only() and all(
        type(t) in (Tensor, nn.Parameter) and not t.is_inference() and t.is_leaf and t.grad is None
        for t in sources
    )

"""Walks through what a file holds: dicts in dicts, however they are nested.

Nothing here recurses, and all of it ends: a checkpoint may be a dict within itself.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

# Deeper than this, nothing is looked for.
_DEEPEST = 8
_DEEPEST_VALUE = 16
# More dicts than this, nothing is looked for in: those in one another may be without number.
_MOST = 10_000
# Training's state beside the weights, some of which is by the weights' names.
_NO_WEIGHTS = re.compile(
    r'optim|sched|scaler|callback|hyper_|message_hub|(meta|args|cfg|config|history|loops)$', re.I
)

Path = tuple[str, ...]


def dicts_in(content: Any) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """The dicts in a checkpoint that may hold weights, and the keys that lead to each; outer first.

    Left out is what holds training's state: an optimizer's, hooks', configs.
    """
    waiting: deque[tuple[Path, Any, frozenset[int]]] = deque()
    if isinstance(content, Mapping):
        waiting.append(((), content, frozenset()))
    for _ in range(_MOST):
        if not waiting:
            return
        path, value, around = waiting.popleft()
        yield path, value
        if len(path) < _DEEPEST:
            around |= {id(value)}
            waiting += (
                ((*path, key), inner, around)
                for key, inner in value.items()
                if isinstance(inner, Mapping)
                and id(inner) not in around
                and isinstance(key, str)
                and not _NO_WEIGHTS.search(key)
            )


def weights_in(content: Any) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """Those of :func:`dicts_in` that hold tensors, or arrays."""
    return ((path, found) for path, found in dicts_in(content) if any(map(_filled, found.values())))


def values_in(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All values and keys in nested dicts, lists, tuples and sets, with the keys that lead there.

    A key has the address of its dict.
    """
    waiting: deque[tuple[tuple[Any, ...], Any]] = deque([((), content)])
    seen: set[int] = set()
    while waiting:
        address, value = waiting.popleft()
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            yield address, value
            continue
        if id(value) in seen or len(address) > _DEEPEST_VALUE:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += ((address, key) for key in value)
            waiting += (((*address, key), inner) for key, inner in value.items())
        else:
            waiting += (((*address, i), inner) for i, inner in enumerate(value))


def _filled(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)

"""Iteration over the nested containers of a checkpoint.

Nothing here recurses and everything terminates, even for a dict that contains itself.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

# Limits on depth, and on the number of dicts: shared dicts can be reached by any number of paths.
_DEEPEST_DICT = 8
_DEEPEST_VALUE = 16
_MOST_DICTS = 10_000
# Keys of the training state, parts of which are named like weights.
_TRAINING_STATE = re.compile(
    r'optim|sched|scaler|callback|hyper_|message_hub|(meta|args|cfg|config|history|loops)$', re.I
)

Path = tuple[str, ...]


def dicts_in(content: Any) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """The dicts of a checkpoint that may hold weights and the keys that lead to them; outer first.

    Training state is left out: optimizers, hooks, configs.
    """
    waiting: deque[tuple[Path, Any, frozenset[int]]] = deque()
    if isinstance(content, Mapping):
        waiting.append(((), content, frozenset()))
    for _ in range(_MOST_DICTS):
        if not waiting:
            return
        path, value, parents = waiting.popleft()
        yield path, value
        if len(path) < _DEEPEST_DICT:
            parents |= {id(value)}
            waiting += (
                ((*path, key), inner, parents)
                for key, inner in value.items()
                if isinstance(inner, Mapping)
                and id(inner) not in parents
                and isinstance(key, str)
                and not _TRAINING_STATE.search(key)
            )


def weights_in(content: Any) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """The dicts of :func:`dicts_in` that hold tensors or arrays."""
    for path, found in dicts_in(content):
        if any(isinstance(value, Tensor | np.ndarray) for value in found.values()):
            yield path, found


def values_in(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All values and keys in nested dicts, lists, tuples and sets, and the keys that lead there.

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

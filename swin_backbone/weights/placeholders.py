"""Placeholders for the objects in a checkpoint whose classes are not allowed.

Training checkpoints hold arguments, configs and paths beside the weights. Their classes are never
imported and the objects are never created: a :class:`Placeholder` records what was there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from mmengine.logging import print_log
from torch import Tensor

from ..argument_values import shown
from ..errors import CheckpointError
from .traversal import values_in, weights_in

_MOST_LISTED, _LONGEST = 8, 120
# Key of a module's `get_extra_state()` in a state dict, which is not a weight.
_EXTRA_STATE = '_extra_state'
# Keys of a whole model's weights. An object there probably is the model itself.
_MODELS = ('state_dict', 'model', 'module', 'net')


class Placeholder:
    """Replaces a class or function that is not allowed, and every object made from it.

    It cannot be called, has no state and no attributes beside these two, and is pickled as a dict
    that names what it replaced.

    Attributes:
        module: Name of the module, for example ``'argparse'``.
        name: Name in that module, for example ``'Namespace'``.
    """

    __slots__ = ('module', 'name')
    module: str
    name: str

    def __init__(self, module: str, name: str) -> None:
        object.__setattr__(self, 'module', module)
        object.__setattr__(self, 'name', name)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f'{self!r} has no attributes to set')

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f'{self!r} has no attributes to delete')

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f'{name!r} of an object that was not read: the class {self} is not allowed'
        )

    def __str__(self) -> str:
        return _printable(f'{self.module}.{self.name}')

    def __repr__(self) -> str:
        return f'<{self}, not read>'

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ([('not_read', str(self))],)


def placeholders_in(content: Any) -> dict[str, Placeholder]:
    """The placeholders in a checkpoint, by the keys that lead there, such as ``'meta.cfg'``."""
    return {
        '.'.join(_printable(key) if isinstance(key, str) else shown(key) for key in address): value
        for address, value in values_in(content)
        if isinstance(value, Placeholder)
    }


def listed(found: Mapping[str, Placeholder]) -> str:
    """Placeholders in one line: ``'args (argparse.Namespace), …'``."""
    names = [f'{address} ({value})' if address else str(value) for address, value in found.items()]
    more = [f'… and {len(names) - _MOST_LISTED} more'] if len(names) > _MOST_LISTED else []
    return ', '.join(names[:_MOST_LISTED] + more)


def check_weights_were_read(content: Any, title: str) -> None:
    """Rejects a checkpoint whose weights are placeholders or were attributes of such an object.

    All other placeholders are logged.

    Args:
        content: The content of the file.
        title: The file's name in messages.

    Raises:
        CheckpointError: The weights were not read; the message names the classes.
    """
    found = placeholders_in(content)
    if not found:
        return
    if needed := _in_place_of_weights(content, found):
        raise CheckpointError(
            f'{title} is refused: its weights are, or are in, objects of classes that are not '
            f'allowed: {listed(needed)}. Save the state_dict() of the model instead'
        )
    print_log(f'{title}: not read, as the classes are not allowed: {listed(found)}', 'current')


def _in_place_of_weights(
    content: Any, found: Mapping[str, Placeholder]
) -> Mapping[str, Placeholder]:
    """The placeholders that replace weights; all of them if there are no weights."""
    places = list(weights_in(content))
    needed = {
        '.'.join((*path, key)): weights[key]
        for path, weights in places
        for key in _keys_in_place_of_weights(weights, nested=bool(path))
    }
    if needed or not places:
        return needed or found
    names = (key for _, weights in places for key in weights if isinstance(key, str))
    if not any('.' in name for name in names):
        # The tensors are counters and the like, and the weights are in the model's object.
        return {name: found[name] for name in _MODELS if name in found}
    return {}


def _keys_in_place_of_weights(weights: Mapping[Any, Any], nested: bool) -> list[str]:
    """The keys of placeholders that replace tensors in a dict of tensors.

    In a nested dict of nothing but tensors, every placeholder counts. Elsewhere a placeholder
    counts if its key is dotted, like a weight's name.
    """
    others = (value for value in weights.values() if not isinstance(value, Placeholder))
    every = nested and all(isinstance(value, Tensor | np.ndarray) for value in others)
    return [
        key
        for key, value in weights.items()
        if isinstance(value, Placeholder)
        and isinstance(key, str)
        and not key.endswith(_EXTRA_STATE)
        and (every or '.' in key)
    ]


def _printable(text: str) -> str:
    """A name from a file, safe to print: truncated if it is long, escaped if unprintable."""
    return text if text.isprintable() and len(text) <= _LONGEST else shown(text, _LONGEST)

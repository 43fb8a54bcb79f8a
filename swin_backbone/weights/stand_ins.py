"""What takes the place of objects in a checkpoint whose classes are not allowed.

Training checkpoints hold arguments, configs and paths beside the weights. Their classes are never
imported and the objects never built: a :class:`StandIn` says what was there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from mmengine.logging import print_log
from torch import Tensor

from ..argument_values import shown as quoted
from ..errors import CheckpointError
from .nested import values_in, weights_in

_SHOWN, _LONGEST = 8, 120
# State dicts may hold a module's `get_extra_state()`, which is no weight.
_EXTRA_STATE = '_extra_state'
# Where files have a whole model's weights; an object there is most likely the model itself.
_MODELS = ('state_dict', 'model', 'module', 'net')


class StandIn:
    """Stands for a class or function that is not allowed, and for what it would have made.

    It cannot be called, has no state and no other attributes than these, and is saved as a dict
    that says what it stood for.

    Attributes:
        module: Name of the module, ``'argparse'``.
        name: Name in that module, ``'Namespace'``.
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


def stand_ins_in(content: Any) -> dict[str, StandIn]:
    """The stand-ins in what was read, by the keys that lead there, such as ``'meta.cfg'``."""
    return {
        '.'.join(_printable(key) if isinstance(key, str) else quoted(key) for key in address): value
        for address, value in values_in(content)
        if isinstance(value, StandIn)
    }


def shown(found: Mapping[str, StandIn]) -> str:
    """Stand-ins in one line: ``'args (argparse.Namespace), …'``."""
    listed = [f'{address} ({value})' if address else str(value) for address, value in found.items()]
    more = [f'… and {len(listed) - _SHOWN} more'] if len(listed) > _SHOWN else []
    return ', '.join(listed[:_SHOWN] + more)


def check_weights_were_read(content: Any, title: str) -> None:
    """Refuses a checkpoint whose weights are, or are in, objects that were not read.

    Stand-ins anywhere else are logged.

    Args:
        content: What was read.
        title: How messages call the file.

    Raises:
        CheckpointError: It is such a checkpoint; the message names the classes.
    """
    found = stand_ins_in(content)
    if not found:
        return
    if needed := _needed(content, found):
        raise CheckpointError(
            f'{title} is refused: its weights are, or are in, objects of classes that are not '
            f'allowed: {shown(needed)}. Save the state_dict() of the model instead'
        )
    print_log(f'{title}: not read, as the classes are not allowed: {shown(found)}', 'current')


def _needed(content: Any, found: Mapping[str, StandIn]) -> Mapping[str, StandIn]:
    """The stand-ins that stand for weights; all of them where there are no weights at all."""
    places = list(weights_in(content))
    needed = {
        '.'.join((*path, key)): weights[key]
        for path, weights in places
        for key in _instead_of_weights(weights, bool(path))
    }
    if needed or not places:
        return needed or found
    names = (key for _, weights in places for key in weights if isinstance(key, str))
    if not any('.' in name for name in names):
        # A counter and the like: the model itself is in its place.
        return {name: found[name] for name in _MODELS if name in found}
    return {}


def _instead_of_weights(weights: Mapping[Any, Any], nested: bool) -> list[str]:
    """The keys of a dict of tensors under which there are stand-ins in place of tensors.

    Whatever is among tensors alone is one; in the outermost dict also what stands beside them.
    """
    keys = [key for key, value in weights.items() if isinstance(value, StandIn)]
    others = (value for value in weights.values() if not isinstance(value, StandIn))
    all_ = nested and all(isinstance(value, Tensor | np.ndarray) for value in others)
    return [
        key
        for key in keys
        if isinstance(key, str) and not key.endswith(_EXTRA_STATE) and (all_ or '.' in key)
    ]


def _printable(text: str) -> str:
    """A name from a file as messages have it: cut where it is long, escaped where it is no name."""
    return text if text.isprintable() and len(text) <= _LONGEST else quoted(text, _LONGEST)

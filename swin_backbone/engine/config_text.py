"""Options as a user writes them: in a config, and after ``--cfg-options``."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def as_config(options: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Options as lines of a config that inherits from another one.

    A list of the base is replaced as a whole, so that one whose items all change alike is written
    as a loop over the base's.

    Args:
        options: Numbers, or lists of numbers, by dotted options.
        config: The whole config, its bases merged.

    Returns:
        The lines, or None where a single item of a list changes.
    """
    tree: dict[str, Any] = {}
    for option, value in options.items():
        *outer, last = option.split('.')
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    try:
        lines = [f'{k} = {_written(v, config.get(k), f"_base_.{k}")}' for k, v in tree.items()]
    except LookupError:
        return None
    return '\n'.join(lines)


def as_command(options: Mapping[str, Any]) -> str:
    """Options as they follow ``--cfg-options``."""
    words = (f'{option}={str(value).replace(" ", "")}' for option, value in options.items())
    return ' '.join(['--cfg-options', *map(shlex.quote, words)])


def _written(tree: Any, config: Any, base: str, item: bool = False) -> str:
    if not isinstance(tree, dict):
        return _shortened(tree) if isinstance(tree, list) else str(tree)
    if isinstance(config, Sequence) and not isinstance(config, str):
        changed = list(tree.values())
        if item or len(changed) < len(config) or any(one != changed[0] for one in changed):
            raise LookupError(base)
        one = _written(changed[0], config[0], 'item', item=True)
        return f'[{one} for item in {base}]'
    inner = config if isinstance(config, Mapping) else {}
    parts = []
    for key, value in tree.items():
        place = f'{base}[{key!r}]' if item else f'{base}.{key}'
        parts.append(f'{key}={_written(value, inner.get(key), place, item)}')
    return f'dict({", ".join([base, *parts] if item else parts)})'


def _shortened(numbers: list[float]) -> str:
    """A list as code, equal numbers in a row written once."""
    runs = [(value, len(list(same))) for value, same in itertools.groupby(numbers)]
    if len(numbers) <= 4 or len(runs) > 3:
        return str(numbers)
    return ' + '.join(f'[{value}]' + (f' * {n}' if n > 1 else '') for value, n in runs)

"""Where in a checkpoint the backbone's weights are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..argument_values import choice, shown
from ..errors import ArgumentError, CheckpointError
from . import formats

# Names under which files hold weights, and moving averages of them.
_WEIGHTS = ('state_dict', 'model', 'module')
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema')
# mmengine's EMAHook swaps the two as it writes: the average is under `state_dict`, the weights as
# trained are under this name.
_MMENGINE_AS_TRAINED = 'ema_state_dict'
# More names than this lead to no weights: a dict within itself has any number.
_DEEPEST = 8
# Of several backbones in a file, the first of these is taken.
_PREFERRED = ('', 'backbone.', 'model.backbone.', 'encoder.')


@dataclass(frozen=True)
class Contents:
    """The backbone in a checkpoint.

    Attributes:
        container: Names that lead to the weights, ``'model'`` or ``'ema.module'`` say; or ``''``.
        prefix: What stands before each of the backbone's keys.
        layout: The backbone's layout, or None where no Swin Transformer is found.
        weights: The backbone's weights, without the prefix.
    """

    container: str
    prefix: str
    layout: formats.Layout | None
    weights: dict[str, Tensor]


def unpack(checkpoint: Any, prefix: str | None = None, ema: bool | None = None) -> Contents:
    """Finds the backbone in a checkpoint.

    Args:
        checkpoint: What was read from a file, or any state dict.
        prefix: Take keys under it alone; needed where a file holds several backbones.
        ema: True for the moving average of the weights, False for the weights as trained, None
            for those that the file's owner would load.

    Raises:
        CheckpointError: The checkpoint is no dict of tensors, has several backbones, none under
            ``prefix``, or no moving average.
        ArgumentError: A prefix that is no text, or ``ema`` that is none of the three.
    """
    if not isinstance(prefix, str | None):
        raise ArgumentError(f"prefix={shown(prefix)} must be text, such as 'backbone.', or None")
    ema = choice('ema', ema, (None, True, False))
    container, state_dict = _select(checkpoint, ema)
    state_dict = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    asked = f'{prefix.rstrip(".")}.' if prefix else ''
    if asked:
        state_dict = formats.under(state_dict, asked)
    found = formats.locate(state_dict)
    if not found:
        # Of no layout that is known; the caller says what it wanted instead.
        weights = formats.under(state_dict, 'backbone.')
        inner = 'backbone.' if weights else ''
        return Contents(container, asked + inner, None, weights or state_dict)
    inner = _choose(list(found), asked)
    weights = formats.under(state_dict, inner)
    return Contents(container, asked + inner, found[inner], weights)


def has_average(checkpoint: Any) -> bool:
    """Whether a checkpoint holds a moving average of the weights beside the weights."""
    return isinstance(checkpoint, Mapping) and any(
        isinstance(checkpoint.get(name), Mapping) for name in (*_AVERAGES, _MMENGINE_AS_TRAINED)
    )


def wrapped_in(keys: Iterable[str]) -> str | None:
    """The one of a file's keys under which files hold weights, if any."""
    return next((key for key in keys if key in _WEIGHTS), None)


def _select(checkpoint: Any, ema: bool | None) -> tuple[str, Mapping[str, Any]]:
    """The dict of tensors in a checkpoint, and the names that lead to it."""
    first: tuple[str, ...] = _WEIGHTS
    if ema is not None and has_average(checkpoint):
        swapped = isinstance(checkpoint.get(_MMENGINE_AS_TRAINED), Mapping)
        if ema and not swapped:
            first = _AVERAGES
        elif not ema and swapped:
            first = (_MMENGINE_AS_TRAINED,)
    elif ema:
        names = ', '.join((*_AVERAGES, _MMENGINE_AS_TRAINED))
        raise CheckpointError(f'ema=True, but there is no moving average (under {names})')
    path: list[str] = []
    while isinstance(checkpoint, Mapping) and len(path) < _DEEPEST:
        name = next((n for n in first if isinstance(checkpoint.get(n), Mapping)), None)
        if name is None:
            break
        checkpoint = checkpoint[name]
        path.append(name)
        first = _WEIGHTS
    if len(path) == _DEEPEST:
        raise CheckpointError(f'weights are not looked for below {".".join(path)}')
    return '.'.join(path), formats.under(checkpoint, '')


def _choose(prefixes: list[str], asked: str) -> str:
    if len(prefixes) == 1:
        return prefixes[0]
    for prefix in _PREFERRED:
        if prefix in prefixes:
            return prefix
    names = ', '.join(repr(asked + prefix) for prefix in sorted(prefixes))
    raise CheckpointError(f'it holds several backbones; say which with prefix=, one of {names}')

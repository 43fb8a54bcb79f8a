"""Where in a checkpoint the backbone's weights are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..argument_values import choice, shown
from ..errors import ArgumentError, CheckpointError
from . import formats
from .nested import Path, dicts_in
from .stand_ins import StandIn

# Names under which files hold weights, and moving averages of them.
_WEIGHTS = ('state_dict', 'model', 'module', 'model_state_dict', 'net', 'params')
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema', 'params_ema')
# mmengine's EMAHook swaps the two as it writes: the average is under `state_dict`, the weights as
# trained are under this name.
_MMENGINE_AS_TRAINED = 'ema_state_dict'
_BESIDE = (*_AVERAGES, _MMENGINE_AS_TRAINED)
# What puts a name of its own before those of the modules within: DDP, compiling, FSDP,
# checkpointing of activations, Lightning Fabric.
_WRAPPERS = re.compile(
    r'(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|'
    r'_forward_module)\.'
)
# More names than this lead to no weights: a dict within itself has any number.
_DEEPEST = 8
# Of several backbones in a file, the first of these is taken.
_PREFERRED = ('', 'backbone.', 'model.backbone.', 'encoder.', 'model.', 'net.')


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

    It is looked for where the file's owner has the weights, and if it is not there in all dicts
    of the file.

    Args:
        checkpoint: What was read from a file, or any state dict.
        prefix: Take keys under it alone; needed where a file holds several backbones. The names
            of the dicts that they are in may stand before it.
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
    path, state_dict = _select(checkpoint, ema)
    state_dict = unwrapped(state_dict)
    asked = unwrapped_name(f'{prefix.rstrip(".")}.') if prefix else ''
    weights = formats.under(state_dict, asked)
    if found := formats.locate(weights):
        inner = _choose(list(found), asked)
        return Contents('.'.join(path), asked + inner, found[inner], formats.under(weights, inner))
    groups = _all_backbones(checkpoint, path, ema)
    for group in groups:
        named = [c for c in group if any(name.startswith(asked) for name in _names(c, path))]
        if matching := named or [c for c in group if c.prefix.startswith(asked)]:
            return _only(matching)
    if asked and not weights:
        names = [_names(contents, path)[-1] for group in groups for contents in group]
        raise CheckpointError(
            f'it holds no weights under {shown(prefix)}'
            + (f'; it holds backbones under {_listed(names)}' if names else '')
        )
    # Of no layout that is known; the caller says what it wanted instead.
    inner = 'backbone.' if any(key.startswith('backbone.') for key in weights) else ''
    return Contents('.'.join(path), asked + inner, None, formats.under(weights, inner))


def whole_model(checkpoint: Any) -> dict[str, Any]:
    """The state dict in a checkpoint of a whole model, without the names of wrappers.

    Raises:
        CheckpointError: There is none.
    """
    return unwrapped(_select(checkpoint, None)[1])


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the names that wrappers of modules put into its keys."""
    return {unwrapped_name(key): value for key, value in state_dict.items()}


def unwrapped_name(key: str) -> str:
    """A key without the names that wrappers of modules put into it."""
    return _WRAPPERS.sub('', key)


def _all_backbones(
    checkpoint: Any, path: Path, ema: bool | None
) -> tuple[list[Contents], list[Contents]]:
    """The backbones in all dicts of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        path: What leads to where the weights usually are.
        ema: As for :func:`unpack`; those that it does not mean are left out.

    Returns:
        The backbones, and apart from them those beside the weights that the owner would load.
    """
    main: list[Contents] = []
    beside: list[Contents] = []
    within = path[:1] if path and path[0] in _BESIDE else ()
    for place, found in dicts_in(checkpoint):
        is_beside = bool(place) and place[0] in _BESIDE
        if place[: len(within)] != within or (is_beside and not within and ema is False):
            continue
        weights = unwrapped(
            {k: v for k, v in found.items() if isinstance(k, str) and not isinstance(v, Mapping)}
        )
        (beside if is_beside and not within else main).extend(
            Contents('.'.join(place), prefix, layout, formats.under(weights, prefix))
            for prefix, layout in formats.locate(weights).items()
        )
    return main, beside


def _names(contents: Contents, path: Path) -> tuple[str, str]:
    """What stands before a backbone's weights: all names, and those below ``path``."""
    full = f'{contents.container}.{contents.prefix}' if contents.container else contents.prefix
    full = unwrapped_name(full)
    return full, full.removeprefix(unwrapped_name(''.join(f'{name}.' for name in path)))


def has_average(checkpoint: Any) -> bool:
    """Whether a checkpoint holds a moving average of the weights beside the weights."""
    return isinstance(checkpoint, Mapping) and any(
        isinstance(checkpoint.get(name), Mapping) for name in _BESIDE
    )


def wrapped_in(keys: Iterable[str]) -> str | None:
    """The one of a file's keys under which files hold weights, if any."""
    return next((key for key in keys if key in _WEIGHTS), None)


def _select(checkpoint: Any, ema: bool | None) -> tuple[Path, dict[str, Any]]:
    """The dict of tensors in a checkpoint, and the names that lead to it."""
    first: tuple[str, ...] = _WEIGHTS
    if ema is not None and has_average(checkpoint):
        swapped = isinstance(checkpoint.get(_MMENGINE_AS_TRAINED), Mapping)
        if ema and not swapped:
            first = _AVERAGES
        elif not ema and swapped:
            first = (_MMENGINE_AS_TRAINED,)
    elif ema:
        raise CheckpointError(
            f'ema=True, but there is no moving average (under {", ".join(_BESIDE)})'
            + _not_read(checkpoint)
        )
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
    return tuple(path), formats.under(checkpoint, '')


def _not_read(checkpoint: Any) -> str:
    """Which averages are objects of classes that are not allowed."""
    found = {name: checkpoint.get(name) for name in _BESIDE if isinstance(checkpoint, Mapping)}
    objects = [f'{name} ({value})' for name, value in found.items() if isinstance(value, StandIn)]
    return f'; not read, as their classes are not allowed: {", ".join(objects)}' if objects else ''


def _choose(prefixes: list[str], asked: str) -> str:
    if len(prefixes) == 1:
        return prefixes[0]
    for prefix in _PREFERRED:
        if prefix in prefixes:
            return prefix
    raise _several(asked + prefix for prefix in prefixes)


def _only(found: list[Contents]) -> Contents:
    """The backbone that is meant, of those that are not in the usual place."""
    names = [_names(contents, ())[0] for contents in found]
    if len({contents.container for contents in found}) > 1:
        raise _several(names)
    start = names[0].removesuffix(found[0].prefix)
    prefix = _choose([contents.prefix for contents in found], start)
    return next(contents for contents in found if contents.prefix == prefix)


def _several(names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f'it holds several backbones; say which with prefix=, one of {_listed(names)}'
    )


def _listed(names: Iterable[str]) -> str:
    return ', '.join(map(repr, sorted(names)))

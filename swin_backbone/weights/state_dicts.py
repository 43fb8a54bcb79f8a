"""Finds the backbone's weights in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..argument_values import choice, shown
from ..errors import ArgumentError, CheckpointError
from . import formats
from .placeholders import Placeholder
from .traversal import Path, dicts_in

# Keys of the weights in files, and of their moving averages.
_WEIGHTS = ('state_dict', 'model', 'module', 'model_state_dict', 'net', 'params')
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema', 'params_ema')
# mmengine's EMAHook saves the average under `state_dict` and the trained weights under this key.
_MMENGINE_AS_TRAINED = 'ema_state_dict'
_SECONDARY = (*_AVERAGES, _MMENGINE_AS_TRAINED)
# Prefixes that wrappers add to the keys of their modules: DDP, torch.compile, FSDP, activation
# checkpointing, Lightning Fabric.
_WRAPPERS = re.compile(
    r'(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|'
    r'_forward_module)\.'
)
# Limit on nested dicts; a dict may contain itself.
_DEEPEST = 8
# If a file holds several backbones, the first of these prefixes is taken.
_PREFERRED = ('', 'backbone.', 'model.backbone.', 'encoder.', 'model.', 'net.')


@dataclass(frozen=True)
class FoundBackbone:
    """A backbone in a checkpoint.

    Attributes:
        container: Dotted keys that lead to the state dict, such as ``'model'`` or
            ``'ema.module'``; or ``''``.
        prefix: Prefix of the backbone's keys in the state dict.
        layout: The backbone's layout, or None if no Swin Transformer was found.
        weights: The backbone's weights, without the prefix.
    """

    container: str
    prefix: str
    layout: formats.Layout | None
    weights: dict[str, Tensor]

    def known_layout(self) -> formats.Layout:
        """The layout.

        Raises:
            CheckpointError: No Swin Transformer was found.
        """
        if self.layout is None:
            some = ', '.join(list(self.weights)[:4]) or 'nothing'
            raise CheckpointError(f'nothing in it is of a known Swin layout; it holds {some}')
        return self.layout


def find_backbone(
    checkpoint: Any, prefix: str | None = None, ema: bool | None = None
) -> FoundBackbone:
    """Finds the backbone in a checkpoint.

    The usual places are searched first, then all dicts of the checkpoint.

    Args:
        checkpoint: The content of a file, or any state dict.
        prefix: Only search keys with this prefix; required if a file holds several backbones. It
            may begin with the keys of nested dicts.
        ema: True for the moving average of the weights, False for the trained weights, None for
            the file's main weights.

    Raises:
        CheckpointError: The checkpoint is not a dict of tensors, holds several backbones, none
            under ``prefix``, or no moving average.
        ArgumentError: The prefix is not a string, or ``ema`` is none of the three.
    """
    if not isinstance(prefix, str | None):
        raise ArgumentError(f"prefix={shown(prefix)} must be text, such as 'backbone.', or None")
    ema = choice('ema', ema, (None, True, False))
    path, state_dict = _select(checkpoint, ema)
    state_dict = _unwrapped(state_dict)
    asked = _unwrapped_key(f'{prefix.rstrip(".")}.') if prefix else ''
    weights = formats.strip_prefix(state_dict, asked)
    if found := formats.locate(weights):
        inner = _choose(list(found), asked)
        weights = formats.strip_prefix(weights, inner)
        return FoundBackbone('.'.join(path), asked + inner, found[inner], weights)
    groups = _all_backbones(checkpoint, path, ema)
    for group in groups:
        named = [
            b for b in group if any(name.startswith(asked) for name in _full_prefixes(b, path))
        ]
        if matching := named or [b for b in group if b.prefix.startswith(asked)]:
            return _only(matching)
    if asked and not weights:
        names = [_full_prefixes(backbone, path)[-1] for group in groups for backbone in group]
        raise CheckpointError(
            f'it holds no weights under {shown(prefix)}'
            + (f'; it holds backbones under {_listed(names)}' if names else '')
        )
    # The layout is unknown; the caller reports what was expected.
    inner = 'backbone.' if any(key.startswith('backbone.') for key in weights) else ''
    weights = formats.strip_prefix(weights, inner)
    return FoundBackbone('.'.join(path), asked + inner, None, weights)


def whole_model(checkpoint: Any) -> dict[str, Any]:
    """The state dict in a checkpoint of a whole model, without the prefixes of wrappers.

    Raises:
        CheckpointError: There is none.
    """
    return _unwrapped(_select(checkpoint, None)[1])


def has_average(checkpoint: Any) -> bool:
    """Whether a checkpoint holds a moving average of the weights beside the weights."""
    return isinstance(checkpoint, Mapping) and any(
        isinstance(checkpoint.get(name), Mapping) for name in _SECONDARY
    )


def container_in(keys: Iterable[str]) -> str | None:
    """The first key that is a usual container of weights, if any."""
    return next((key for key in keys if key in _WEIGHTS), None)


def _unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {_unwrapped_key(key): value for key, value in state_dict.items()}


def _unwrapped_key(key: str) -> str:
    """A key without the prefixes of wrappers."""
    return _WRAPPERS.sub('', key)


def _all_backbones(
    checkpoint: Any, path: Path, ema: bool | None
) -> tuple[list[FoundBackbone], list[FoundBackbone]]:
    """The backbones in all dicts of a checkpoint: of main weights, and of averages and the like.

    ``path`` leads to the usual place of the weights. Backbones that ``ema`` excludes are left out.
    """
    main: list[FoundBackbone] = []
    secondary: list[FoundBackbone] = []
    within = path[:1] if path and path[0] in _SECONDARY else ()
    for place, found in dicts_in(checkpoint):
        is_secondary = bool(place) and place[0] in _SECONDARY
        if place[: len(within)] != within or (is_secondary and not within and ema is False):
            continue
        weights = _unwrapped(
            {k: v for k, v in found.items() if isinstance(k, str) and not isinstance(v, Mapping)}
        )
        group = secondary if is_secondary and not within else main
        for prefix, layout in formats.locate(weights).items():
            own = formats.strip_prefix(weights, prefix)
            group.append(FoundBackbone('.'.join(place), prefix, layout, own))
    return main, secondary


def _full_prefixes(backbone: FoundBackbone, path: Path) -> tuple[str, str]:
    """A backbone's prefix with the keys of all containers, and only with those below ``path``."""
    full = f'{backbone.container}.{backbone.prefix}' if backbone.container else backbone.prefix
    full = _unwrapped_key(full)
    return full, full.removeprefix(_unwrapped_key(''.join(f'{name}.' for name in path)))


def _select(checkpoint: Any, ema: bool | None) -> tuple[Path, dict[str, Any]]:
    """The state dict in its usual place, and the keys that lead to it."""
    names: tuple[str, ...] = _WEIGHTS
    if ema is not None and has_average(checkpoint):
        swapped = isinstance(checkpoint.get(_MMENGINE_AS_TRAINED), Mapping)
        if ema and not swapped:
            names = _AVERAGES
        elif not ema and swapped:
            names = (_MMENGINE_AS_TRAINED,)
    elif ema:
        raise CheckpointError(
            f'ema=True, but there is no moving average (under {", ".join(_SECONDARY)})'
            + _averages_not_read(checkpoint)
        )
    path: list[str] = []
    while isinstance(checkpoint, Mapping) and len(path) < _DEEPEST:
        name = next((n for n in names if isinstance(checkpoint.get(n), Mapping)), None)
        if name is None:
            break
        checkpoint = checkpoint[name]
        path.append(name)
        names = _WEIGHTS
    if len(path) == _DEEPEST:
        raise CheckpointError(f'weights are not looked for below {".".join(path)}')
    return tuple(path), formats.strip_prefix(checkpoint, '')


def _averages_not_read(checkpoint: Any) -> str:
    """The averages that are objects of classes that are not allowed, for an error message."""
    found = {name: checkpoint.get(name) for name in _SECONDARY if isinstance(checkpoint, Mapping)}
    objects = [f'{name} ({v})' for name, v in found.items() if isinstance(v, Placeholder)]
    return f'; not read, as their classes are not allowed: {", ".join(objects)}' if objects else ''


def _choose(prefixes: list[str], asked: str) -> str:
    if len(prefixes) == 1:
        return prefixes[0]
    for prefix in _PREFERRED:
        if prefix in prefixes:
            return prefix
    raise _several(asked + prefix for prefix in prefixes)


def _only(found: list[FoundBackbone]) -> FoundBackbone:
    """The intended one of the backbones outside of the usual place."""
    names = [_full_prefixes(backbone, ())[0] for backbone in found]
    if len({backbone.container for backbone in found}) > 1:
        raise _several(names)
    start = names[0].removesuffix(found[0].prefix)
    prefix = _choose([backbone.prefix for backbone in found], start)
    return next(backbone for backbone in found if backbone.prefix == prefix)


def _several(names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f'it holds several backbones; say which with prefix=, one of {_listed(names)}'
    )


def _listed(names: Iterable[str]) -> str:
    return ', '.join(map(repr, sorted(names)))

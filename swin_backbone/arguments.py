"""Constructor arguments as users write them: aliases, variants, and errors that name the fix."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from .argument_values import same, shown
from .errors import ArgumentError, ArgumentTypeError
from .options import ALIASES, Check

# mmengine's key that replaces a dict of a base config; the merge removes it.
DELETE = '_delete_'
LEFT_OVER = f'{DELETE}=True has no effect, because no base config has this dict: remove it'

# Arguments of other backbones. Swin gets them if its config is merged into a base config's
# backbone without _delete_=True.
_OF_OTHERS = frozenset(
    [
        *('depth', 'num_stages', 'num_layers', 'style', 'norm_eval', 'conv_cfg', 'deep_stem'),
        *('dilations', 'contract_dilation', 'avg_down', 'stem_channels', 'base_channels', 'dcn'),
        *('stage_with_dcn', 'plugins', 'groups', 'base_width', 'scales', 'extra', 'channels'),
        *('widen_factor', 'deepen_factor', 'patch_sizes', 'sr_ratios', 'mlp_ratios', 'final_norm'),
        *('layer_scale_init_value', 'gap_before_final_norm', 'model_name', 'features_only'),
    ]
)


def declares_arguments(
    variants: Mapping[str, Mapping[str, Any]],
    checks: Mapping[str, Check],
    *,
    extends: Callable | None = None,
    without: Sequence[str] = (),
) -> Callable[[Callable], Callable]:
    """Turns the declaration of an ``__init__`` into one that checks arguments and builds the model.

    The decorated function declares names and defaults; its body does not run. The constructor
    resolves aliases and ``arch=``, a name in ``variants``, as if the variant's values had been
    written out, checks every value, and calls ``self._build`` with all arguments as attributes of
    one object.

    Args:
        variants: Arguments of each named variant.
        checks: Check of each argument that has one, in the order in which they run.
        extends: Constructor of the base class, whose arguments are declared here, too.
        without: Those of its arguments that are not.

    Raises:
        ArgumentTypeError: Unknown arguments; the message names the nearest known ones and the
            likely cause.
        ArgumentError: Two arguments that contradict each other, an unknown variant, a value that
            fails its check, or a ``_delete_`` that no base config has used up.
    """

    def decorate(init: Callable) -> Callable:
        parameters = _declared(init, extends, without)
        defaults = {name: parameter.default for name, parameter in parameters.items()}

        @functools.wraps(init)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            given = _canonical(type(self).__name__, list(parameters), args, kwargs)
            if given.get('arch') is not None:
                given |= _variant(type(self).__name__, given, variants)
            values = defaults | given
            for name, check in checks.items():
                if name in values:
                    values[name] = check(name, values[name], values)
            self._build(SimpleNamespace(**values))

        this = inspect.Parameter('self', inspect.Parameter.POSITIONAL_OR_KEYWORD)
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [this, *parameters.values()]
        )
        return wrapper

    return decorate


def _declared(
    init: Callable, extends: Callable | None, without: Sequence[str]
) -> dict[str, inspect.Parameter]:
    """Parameters of a constructor by name: those of the one it extends, then its own."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found: dict[str, inspect.Parameter] = {}
    for function in filter(None, (extends, init)):
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.pop(name, None)  # an argument that is declared again moves to its new place
                found[name] = parameter.replace(kind=kind)
    return {name: parameter for name, parameter in found.items() if name not in without}


def _canonical(
    owner: str, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The given arguments by their names, aliases resolved."""
    given = by_position(owner, names, args)
    known = [*names, *ALIASES]
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        raise ArgumentTypeError(_unknown(owner, unknown, known))
    for name, value in kwargs.items():
        canonical = ALIASES.get(name, name)
        _check_merged(owner, name, value)
        if canonical in given and not same(given[canonical], value):
            raise ArgumentError(
                f'{owner}: {name}={shown(value)} contradicts '
                f'{canonical}={shown(given[canonical])}: they are two names of one argument'
            )
        given[canonical] = value
    return given


def by_position(owner: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Positional arguments by their names.

    Raises:
        ArgumentTypeError: More values than names.
    """
    if len(values) > len(names):
        raise ArgumentTypeError(f'{owner} takes up to {len(names)} arguments, got {len(values)}')
    return dict(zip(names, values, strict=False))


def _unknown(owner: str, names: Sequence[str], known: Sequence[str]) -> str:
    """The error message for unknown arguments, with the likely cause."""
    if DELETE in names:
        return f'{owner} got an unknown argument {DELETE!r}: {LEFT_OVER}'
    inherited = not _OF_OTHERS.isdisjoint(names)
    near = [difflib.get_close_matches(name, known, n=1, cutoff=0.5) for name in names]
    if len(names) == 1:
        hint = f'did you mean {near[0][0]!r}?' if near[0] else f'it takes {", ".join(known)}'
        said = f'{owner} got an unknown argument {shown(names[0])}; {hint}'
    else:
        said = f'{owner} got unknown arguments ' + ', '.join(
            shown(name) + (f' (did you mean {like[0]!r}?)' if like and not inherited else '')
            for name, like in zip(names, near, strict=True)
        )
    if inherited:
        said += (
            '. If they come from the backbone of a base config, replace that backbone: '
            f'backbone=dict({DELETE}=True, …)'
        )
    return said


def _check_merged(owner: str, name: str, value: Any) -> None:
    """Raises if an argument that is a dict, or a list of dicts, contains ``_delete_``."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, Mapping) and DELETE in one:
            raise ArgumentError(f'{owner}: {name}={shown(value)}: {LEFT_OVER}')


def _variant(owner: str, given: Mapping, variants: Mapping) -> Mapping[str, Any]:
    arch = given['arch']
    variant: Mapping[str, Any]
    if isinstance(arch, Mapping):
        own: dict[str, Any] = dict(arch)
        variant = {ALIASES.get(name, name): value for name, value in own.items()}
        needed = next(iter(variants.values())).keys()
        extra = {name: None for other in variants.values() for name in other if name not in needed}
        if not needed <= variant.keys() <= needed | extra.keys():
            more = f', and maybe {", ".join(extra)}' if extra else ''
            raise ArgumentError(
                f'{owner}: arch={shown(own)}: Custom arch needs a dict of exactly '
                f'{", ".join(needed)}{more}'
            )
    elif isinstance(arch, str) and arch.lower() in variants:
        variant = variants[arch.lower()]
    else:
        near = difflib.get_close_matches(shown(arch), variants, n=1, cutoff=0.0)
        raise ArgumentError(
            f'{owner}: arch={shown(arch)} is not in default archs; did you mean {near[0]!r}? '
            f'It is one of {", ".join(variants)}, or a dict of {", ".join(variants[near[0]])}'
        )
    for name, value in variant.items():
        if name in given and not same(_plain(given[name]), _plain(value)):
            raise ArgumentError(
                f'{owner}: {name}={shown(given[name])} contradicts arch={shown(arch)}, whose '
                f'{name} is {shown(value)}; give one of the two (arch=None where a base config '
                'has arch)'
            )
    return variant


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value

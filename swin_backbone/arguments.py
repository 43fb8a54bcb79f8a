"""Constructor arguments as users write them: aliases, named variants, and errors that help."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .argument_values import same, shown
from .errors import ArgumentError

# Spellings of the official release and of mmpretrain, with OpenMMLab's.
ALIASES = {
    'embed_dim': 'embed_dims',
    'in_chans': 'in_channels',
    'img_size': 'pretrain_img_size',
    'ape': 'use_abs_pos_embed',
    'use_checkpoint': 'with_cp',
}


def named_arguments(variants: Mapping[str, Mapping[str, Any]]) -> Callable[[Callable], Callable]:
    """Makes an ``__init__`` take the aliases above and ``arch=``, a name in ``variants``.

    The decorated function is called with its own argument names only, and never with ``arch``
    unresolved: a variant's values are passed as if they had been written out.

    Raises:
        TypeError: An argument that is not known; the message names the nearest that is.
        ArgumentError: Two arguments that contradict each other, or an unknown variant.
    """

    def decorate(init: Callable) -> Callable:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            owner = type(self).__name__
            given = by_position(owner, list(signature.parameters)[1:], args)
            for name, value in kwargs.items():
                canonical = ALIASES.get(name, name)
                if canonical not in signature.parameters:
                    raise TypeError(_unknown(owner, name, signature))
                if canonical in given and not same(given[canonical], value):
                    raise ArgumentError(
                        f'{owner}: {name}={shown(value)} contradicts '
                        f'{canonical}={shown(given[canonical])}: they are two names of one argument'
                    )
                given[canonical] = value
            if given.get('arch') is not None:
                given |= _variant(owner, given, variants)
            init(self, **given)

        return wrapper

    return decorate


def by_position(owner: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Arguments that were given by position, by their names.

    Raises:
        TypeError: There are more than names.
    """
    if len(values) > len(names):
        raise TypeError(f'{owner} takes up to {len(names)} arguments, got {len(values)}')
    return dict(zip(names, values, strict=False))


def _unknown(owner: str, name: str, signature: inspect.Signature) -> str:
    known = [*[*signature.parameters][1:], *ALIASES]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]!r}?' if near else f'it takes {", ".join(known)}'
    return f'{owner} got an unknown argument {shown(name)}; {hint}'


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
                f'{name} is {shown(value)}; give one of the two'
            )
    return variant


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value

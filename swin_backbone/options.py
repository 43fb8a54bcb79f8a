"""The arguments of the backbones: aliases, variants, checks, and those that all blocks share.

The constructors in ``swin.py`` and ``swin_v2.py`` declare the arguments with their defaults. This
file says how each value is checked, and which ones travel to every block as :class:`BlockOptions`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from .argument_values import (
    LARGEST_COUNT,
    LARGEST_DEPTH,
    LARGEST_SIDE,
    LARGEST_WIDTH,
    LARGEST_WINDOW,
    choice,
    flag,
    integer,
    integers,
    number,
    rate,
    sequence,
    shown,
    window_side,
)
from .errors import ArgumentError, ArgumentTypeError

# Spellings of the official release and of mmpretrain, with OpenMMLab's.
ALIASES = {
    'embed_dim': 'embed_dims',
    'in_chans': 'in_channels',
    'img_size': 'pretrain_img_size',
    'ape': 'use_abs_pos_embed',
    'use_checkpoint': 'with_cp',
}

# The variants of the papers: V1's section 3.3, V2's section 4.1. Heads are 32 wide in all of them.
_TINY = dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
_SMALL = dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))
_BASE = dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
_LARGE = dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
# The V2 paper does not give the heads of these two; H's are as in microsoft/MIM-Depth-Estimation.
_HUGE = dict(
    embed_dims=352, depths=(2, 2, 18, 2), num_heads=(11, 22, 44, 88), extra_norm_every_n_blocks=6
)
_GIANT = dict(
    embed_dims=512, depths=(2, 2, 42, 4), num_heads=(16, 32, 64, 128), extra_norm_every_n_blocks=6
)
VARIANTS: dict[str, dict[str, Any]] = {
    **{'tiny': _TINY, 'small': _SMALL, 'base': _BASE, 'large': _LARGE},
    **{'t': _TINY, 's': _SMALL, 'b': _BASE, 'l': _LARGE},
}
VARIANTS_V2 = {**VARIANTS, **{'huge': _HUGE, 'giant': _GIANT}, **{'h': _HUGE, 'g': _GIANT}}

# What `with_cp` takes: the part that is recomputed in the backward pass. True means 'block'.
RECOMPUTABLE: tuple[bool | str, ...] = (False, True, 'attention', 'mlp', 'block', 'stage')

Options = TypeVar('Options', bound='BlockOptions')


@dataclass(frozen=True)
class BlockOptions:
    """Arguments that all blocks of a backbone share.

    Fields are named like the backbone's arguments; defaults are those of OpenMMLab's blocks.
    """

    window_size: int = 7
    qkv_bias: bool = True
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_cfg: dict = field(default_factory=lambda: dict(type='GELU'))
    norm_cfg: dict = field(default_factory=lambda: dict(type='LN'))
    with_cp: bool | str = False

    @classmethod
    def of(cls: type[Options], arguments: Mapping[str, Any]) -> Options:
        """The options among a backbone's arguments."""
        return cls(**{f.name: arguments[f.name] for f in fields(cls) if f.name in arguments})

    def accepted_by(self, function: Callable) -> dict[str, Any]:
        """The options that ``function`` has a parameter for, by name.

        Where a class passes ``**kwargs`` on, the parameters of its base class count as well.
        """
        accepted: set[str] = set()
        for one in getattr(function, '__mro__', (function,)):
            parameters = inspect.signature(one).parameters
            accepted |= parameters.keys()
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                break
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in accepted}


@dataclass(frozen=True)
class BlockOptionsV1(BlockOptions):
    """Arguments that all blocks of a V1 backbone share."""

    qk_scale: float | None = None
    pad_small_map: bool = True


@dataclass(frozen=True)
class BlockOptionsV2(BlockOptions):
    """Arguments that all blocks of a V2 backbone share, or those of one of its stages."""

    pretrained_window_size: int = 0
    pad_small_map: bool = False


def takes_options(kind: type[BlockOptions], order: str) -> Callable[[Callable], Callable]:
    """Makes an ``__init__`` that has a parameter ``options`` take each option by its name as well.

    Args:
        kind: The options; callers pass one as ``options=``, or single ones by name, or both.
        order: Names of the parameters that may be passed by position, in this order, as OpenMMLab's
            modules have them. All others are keyword-only.
    """

    defaults = kind()

    def decorate(init: Callable) -> Callable:
        this, *own = inspect.signature(init).parameters.values()
        every = {p.name: p for p in own if p.name != 'options'}
        names = order.split()
        by_name = {
            f.name: inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(defaults, f.name),
                annotation=f.type,
            )
            for f in fields(defaults)
        }
        every |= by_name
        positional = [
            every[name].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names
        ]
        keywords = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, p in every.items()
            if name not in names
        ]
        signature = inspect.Signature([this, *positional, *keywords])

        @functools.wraps(init)
        def wrapper(
            self: Any, *args: Any, options: BlockOptions | None = None, **kwargs: Any
        ) -> None:
            try:
                given = signature.bind(self, *args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f'{init.__qualname__}() {error}') from None
            del given[this.name]
            named = {name: given.pop(name) for name in by_name if name in given}
            init(self, **given, options=replace(options or defaults, **named))

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper

    return decorate


# Checks of one argument: from its name, its value and all arguments, of which those above it in the
# table are checked, to the value that the constructor uses. They raise ArgumentError.
Check = Callable[[str, Any, Mapping[str, Any]], Any]


def _init_cfg(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    """``init_cfg``, or the one that ``pretrained`` stands for."""
    if not isinstance(value, Mapping | list | tuple | None):
        raise ArgumentError(
            f"init_cfg={shown(value)} must be a dict, dict(type='Pretrained', checkpoint=…) for one"
        )
    pretrained = given['pretrained']
    if pretrained is None:
        return value
    if not isinstance(pretrained, str):
        raise ArgumentTypeError(f'pretrained must be a str or None, got {shown(pretrained)}')
    if value:
        raise ArgumentError(
            f'pretrained={shown(pretrained)} contradicts init_cfg: give only init_cfg. Detectors '
            'and segmentors hand their own pretrained to the backbone: where a base config has it, '
            'set model.pretrained=None, as in model=dict(pretrained=None, …)'
        )
    return dict(type='Pretrained', checkpoint=pretrained)


def _window_size(name: str, value: Any, given: Mapping[str, Any]) -> int:
    expected = 'a positive int, or twice the same; V1 has one window for all stages'
    return window_side(name, value, expected)


def _window_sizes(name: str, value: Any, given: Mapping[str, Any]) -> int | tuple[int, ...]:
    """One side, or a tuple with one per stage; a pair is one window unless there are two stages."""
    stages = len(given['depths'])
    expected = (
        f'a positive int of {LARGEST_WINDOW} at most (or twice the same), or one for each of the '
        f'{stages} stages of depths'
    )
    if isinstance(value, list | tuple) and len(value) == stages:
        return tuple(window_side(name, side, expected) for side in value)
    return window_side(name, value, expected)


def _pretrained_window_sizes(name: str, value: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
    stages = len(given['depths'])
    expected = (
        f'must have an int for each of the {stages} stages of depths: the side of the windows in '
        'pretraining, from 2 on, or 0'
    )
    if not isinstance(value, list | tuple) or len(value) < stages:
        raise ArgumentError(f'{name}={shown(value)} {expected}')
    sides = tuple(integer(name, v, 0, LARGEST_COUNT, f'an int; it {expected}') for v in value)
    if 1 in sides:
        raise ArgumentError(f'{name}={shown(value)} {expected}')
    return sides


def _embed_dims(name: str, value: Any, given: Mapping[str, Any]) -> int:
    return integer(name, value, 1, LARGEST_WIDTH >> max(len(given['depths']) - 1, 0))


def _mlp_ratio(name: str, value: Any, given: Mapping[str, Any]) -> float:
    """A ratio whose hidden layers fit into memory."""
    most = LARGEST_WIDTH * 16 / given['embed_dims']
    return number(name, value, 0, most, f'a number from 0 to {most:.6g}')


def _num_heads(name: str, value: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
    heads, stages = integers(name, value, 1), len(given['depths'])
    strides = given['strides']
    if len(heads) != stages or len(sequence('strides', strides)) < stages:
        raise ArgumentError(
            f'num_heads={shown(heads)} and strides={shown(strides)} must have an entry for '
            f'each of the {stages} stages of depths'
        )
    return heads


def _out_indices(name: str, value: Any, given: Mapping[str, Any]) -> tuple[int, ...]:
    indices, stages = sequence(name, value), len(given['depths'])
    expected = f'name some of the stages 0 to {stages - 1}, or -1 to {-stages} from the last, each'
    expected += ' once'
    if not indices or not stages:
        raise ArgumentError(f'{name}={shown(value)} must {expected}')
    plain = tuple(
        integer(name, i, -stages, stages - 1, f'an int; they {expected}') % stages for i in indices
    )
    if len(set(plain)) < len(plain):
        raise ArgumentError(f'{name}={shown(value)} must {expected}')
    return plain


def _frozen_stages(name: str, value: Any, given: Mapping[str, Any]) -> int:
    stages = len(given['depths'])
    expected = f'-1 (none), 0 (patch embedding) or the number of frozen stages, up to {stages}'
    return integer(name, value, -1, stages, expected)


def _strides(name: str, value: Any, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The patch's (height, width), then the stride of each patch merging."""
    patch = given['patch_size']
    if _pair('strides[0]', value[0], 1, LARGEST_SIDE) != patch:
        raise ArgumentError(
            f'strides[0]={shown(value[0])} must equal patch_size={patch}: patches do not overlap'
        )
    mergings = []
    for i, stride in enumerate(value[1:], 1):
        rows, columns = _pair(f'strides[{i}]', stride, 1, LARGEST_SIDE)
        if rows != columns:
            raise ArgumentError(f'strides[{i}]={shown(stride)} must be the same for both axes')
        mergings.append(rows)
    return patch, *mergings


def _norm_cfg(name: str, value: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name}={shown(value)} must be a dict, as dict(type='LN')")
    return value


def _pretrain_img_size(name: str, value: Any, given: Mapping[str, Any]) -> tuple[int, int]:
    size, patch = _pair(name, value, 0, 2**20, 'one or two numbers'), given['patch_size']
    if given['use_abs_pos_embed'] and (size[0] < patch[0] or size[1] < patch[1]):
        raise ArgumentError(
            f'{name}={size} must be a patch of {patch} pixels or more: it is the size of the '
            'absolute position embedding'
        )
    return size


def _pair(
    name: str, value: Any, least: int, most: int, expected: str | None = None
) -> tuple[int, int]:
    """Height and width, from one number for both or from two."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    expected = expected or f'one or two ints from {least} on'
    if len(sides) not in (1, 2):
        raise ArgumentError(f'{name} must be {expected}, got {shown(value)}')
    plain = [integer(name, side, least, most, expected) for side in sides]
    return plain[0], plain[-1]


def _flag(name: str, value: Any, given: Mapping[str, Any]) -> bool:
    return flag(name, value)


def _rate(name: str, value: Any, given: Mapping[str, Any]) -> float:
    return rate(name, value)


CHECKS: dict[str, Check] = {
    'init_cfg': _init_cfg,
    'depths': lambda name, value, given: integers(name, value, 0, LARGEST_DEPTH),
    'window_size': _window_size,
    'qkv_bias': _flag,
    'patch_norm': _flag,
    'pad_small_map': _flag,
    'global_attention': _flag,
    'use_abs_pos_embed': _flag,
    'qk_scale': lambda name, value, given: (
        None if value is None else number(name, value, -1e30, 1e30, 'a number or None')
    ),
    'in_channels': lambda name, value, given: integer(name, value, 1),
    'embed_dims': _embed_dims,
    'drop_rate': _rate,
    'attn_drop_rate': _rate,
    'drop_path_rate': _rate,
    'mlp_ratio': _mlp_ratio,
    'num_heads': _num_heads,
    'out_indices': _out_indices,
    'frozen_stages': _frozen_stages,
    'patch_size': lambda name, value, given: _pair(name, value, 1, LARGEST_SIDE),
    'strides': _strides,
    'with_cp': lambda name, value, given: choice(name, value, RECOMPUTABLE),
    'norm_cfg': _norm_cfg,
    'pretrain_img_size': _pretrain_img_size,
}
CHECKS_V2: dict[str, Check] = CHECKS | {
    'window_size': _window_sizes,
    'pretrained_window_sizes': _pretrained_window_sizes,
    'extra_norm_every_n_blocks': lambda name, value, given: integer(name, value, 0),
}

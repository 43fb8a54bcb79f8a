"""The arguments of the backbones: aliases, variants, checks, and what blocks share of them.

The constructors in ``swin.py`` and ``swin_v2.py`` declare the arguments with their defaults. This
file says how each value is checked, and which ones travel to every block as :class:`BlockOptions`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

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


@dataclass(frozen=True)
class BlockOptions:
    """Arguments that every block of a V1 backbone gets as they are.

    A field is named like the backbone's argument; its default is that of OpenMMLab's blocks.
    """

    window_size: int = 7
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    act_cfg: dict = dict(type='GELU')
    norm_cfg: dict = dict(type='LN')
    with_cp: bool | str = False
    pad_small_map: bool = True

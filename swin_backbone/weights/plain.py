"""What of a checkpoint can be computed with: plain tensors, of the dimensions that names imply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..errors import CheckpointError
from .stand_ins import StandIn

# Of the neutral layout: names, and how many dimensions they have, for those that are computed with.
_DIMENSIONS = {
    re.compile(pattern): dimensions
    for pattern, dimensions in {
        r'\.relative_position_bias_table$': (2,),
        r'\.logit_scale$': (3,),
        r'\.[qv]_bias$': (1,),
        r'^absolute_pos_embed$': (3, 4),
        r'^patch_embed\.projection\.weight$': (4,),
        r'^(stages|patch_embed|global_attention|norm[0-9]*|head\.fc)\.|^mask_token$': (1, 2, 3, 4),
    }.items()
}


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a dense tensor: not sparse, nested or quantised."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_quantized
        and value.layout is torch.strided
    )


def form(value: Any) -> str:
    """A value's shape, or what it is instead of a plain tensor."""
    if is_plain(value):
        return str(tuple(value.shape))
    if isinstance(value, StandIn):
        return f'an object of {value}, whose class is not allowed'
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    kind = 'nested' if value.is_nested else 'quantised' if value.is_quantized else value.layout
    return f'a {kind} tensor'


def joined(parts: Sequence[Any]) -> Tensor | None:
    """Tensors one after the other along their first dimension; None where they are not alike."""
    if not all(is_plain(part) and part.dim() for part in parts):
        return None
    first = parts[0]
    if any(part.shape != first.shape or part.device != first.device for part in parts):
        return None
    # Eight-bit floats are promoted to nothing.
    mixed = any(part.dtype != first.dtype for part in parts)
    if mixed and any(part.is_floating_point() and part.element_size() < 2 for part in parts):
        return None
    return torch.cat(tuple(parts))


def check_weights(neutral: Mapping[str, Any]) -> None:
    """Refuses weights in the neutral layout that cannot be taken apart, put together or reordered.

    Raises:
        CheckpointError: Some are no plain tensors, or have another shape than their names imply;
            the message lists them.
    """
    wrong = [
        f'{key}: found {form(value)}' for key, value in neutral.items() if not _fits(key, value)
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} weights are no tensors of the shape that their names imply:\n    '
            + '\n    '.join(wrong[:8])
        )


def _fits(key: str, value: Any) -> bool:
    dimensions = next((d for name, d in _DIMENSIONS.items() if name.search(key)), None)
    if dimensions is None:
        return True
    if not is_plain(value) or value.dim() not in dimensions:
        return False
    if key == 'absolute_pos_embed':
        return len(value) == 1 and value.numel() > 0
    if '.qkv.' in key:
        return len(value) > 0 and len(value) % 3 == 0
    return '.downsample.' not in key or value.shape[-1] % 4 == 0

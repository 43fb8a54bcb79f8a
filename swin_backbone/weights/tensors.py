"""The values of a checkpoint: which of them are usable weights, and NumPy arrays as tensors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from ..errors import CheckpointError
from .placeholders import Placeholder
from .traversal import weights_in

# Endings of the names of a Swin Transformer's weights.
_WEIGHT_NAMES = (
    *('.weight', '.bias', 'relative_position_bias_table', 'absolute_pos_embed'),
    *('logit_scale', 'q_bias', 'v_bias', 'relative_coords_table'),  # V2
)
# Number of dimensions by name in the neutral layout, for the weights that are computed with.
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


def is_dense(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a strided tensor that is not nested or quantized."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_quantized
        and value.layout is torch.strided
    )


def summary(value: Any) -> str:
    """The shape of a dense tensor, or the kind of any other value, for error messages."""
    if is_dense(value):
        return str(tuple(value.shape))
    if isinstance(value, Placeholder):
        return f'an object of {value}, whose class is not allowed'
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    kind = 'nested' if value.is_nested else 'quantized' if value.is_quantized else value.layout
    return f'a {kind} tensor'


def concatenated(parts: Sequence[Any]) -> Tensor | None:
    """Concatenates tensors along dimension 0; None if their shapes, devices or dtypes differ."""
    if not all(is_dense(part) and part.dim() for part in parts):
        return None
    first = parts[0]
    if any(part.shape != first.shape or part.device != first.device for part in parts):
        return None
    # torch does not promote eight-bit floats.
    mixed = any(part.dtype != first.dtype for part in parts)
    if mixed and any(part.is_floating_point() and part.element_size() < 2 for part in parts):
        return None
    return torch.cat(tuple(parts))


def arrays_to_tensors(content: Any, file_size: int) -> None:
    """Converts the NumPy arrays of state dicts to tensors in place, sharing memory if possible.

    A state dict that also holds tensors keeps its arrays: they are not weights.

    Args:
        content: The content of a file.
        file_size: Size of the file in bytes. Arrays that are larger are kept as they are, because
            the file cannot contain their data.
    """
    for _, weights in weights_in(content):
        arrays = {key: value for key, value in weights.items() if isinstance(value, np.ndarray)}
        unique = {id(array): array for array in arrays.values()}
        if (
            isinstance(weights, dict)
            and any(_is_weight(key, array) for key, array in arrays.items())
            and not any(isinstance(value, Tensor) for value in weights.values())
            and sum(array.nbytes for array in unique.values()) <= file_size
        ):
            tensors = {name: _as_tensor(array) for name, array in unique.items()}
            weights.update({key: tensors[id(array)] for key, array in arrays.items()})


def _is_weight(key: Any, array: np.ndarray) -> bool:
    return isinstance(key, str) and key.endswith(_WEIGHT_NAMES) and array.dtype.kind == 'f'


def _as_tensor(array: np.ndarray) -> Any:
    """A tensor, or the array itself if torch does not support its dtype."""
    try:
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder('='), 'W'))
    except TypeError:
        return array


# --- checks ---------------------------------------------------------------------------------------


def check_shapes(neutral: Mapping[str, Any]) -> None:
    """Checks that weights in the neutral layout can be split, concatenated and reordered.

    Raises:
        CheckpointError: Some are not dense tensors, or do not have the shape that their names
            imply; the message lists them.
    """
    wrong = [f'{k}: found {summary(v)}' for k, v in neutral.items() if not _fits(k, v)]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} weights are no tensors of the shape that their names imply:\n    '
            + '\n    '.join(wrong[:8])
        )


def _fits(key: str, value: Any) -> bool:
    dimensions = next((d for name, d in _DIMENSIONS.items() if name.search(key)), None)
    if dimensions is None:
        return True
    if not is_dense(value) or value.dim() not in dimensions:
        return False
    if key == 'absolute_pos_embed':
        return len(value) == 1 and value.numel() > 0
    if '.qkv.' in key:
        return len(value) > 0 and len(value) % 3 == 0
    return '.downsample.' not in key or value.shape[-1] % 4 == 0


def check_floats(checkpoint: Any, title: str) -> None:
    """Checks that the weights of a Swin Transformer are floating-point tensors.

    Raises:
        CheckpointError: Some are not; the message lists them.
    """
    wrong = []
    for key, value in _entries(checkpoint):
        if not key.endswith(_WEIGHT_NAMES):
            continue
        if isinstance(value, Tensor) and not value.is_floating_point():
            wrong.append(f'{key}: found {value.dtype}')
        elif not is_dense(value):
            wrong.append(f'{key}: found {summary(value)}')
        elif not value.is_meta and value.numel() > (stored := _stored(value).numel()):
            wrong.append(f'{key}: found {tuple(value.shape)} made of {stored} values')
    if wrong:
        raise CheckpointError(
            f'{title}: {len(wrong)} weights are not floating point tensors:\n    '
            + '\n    '.join(wrong[:8])
        )


def warn_of_non_finite(checkpoint: Any, title: str) -> list[str]:
    """Warns once per file if weights hold NaN or infinity, and returns their keys."""
    keys = [key for key, value in _entries(checkpoint) if not _is_finite(value)]
    if keys:
        more = ', …' if len(keys) > 8 else ''
        print_log(
            f'{title}: NaN or infinity in {len(keys)} weights: {", ".join(keys[:8])}{more}',
            logger='current',
            level=logging.WARNING,
        )
    return keys


def _entries(checkpoint: Any) -> Iterator[tuple[str, Any]]:
    """The entries of all state dicts in a checkpoint, except for dicts nested in the minor ones."""
    if not isinstance(checkpoint, Mapping):
        return
    main = [v for k in ('state_dict', 'model') if isinstance(v := checkpoint.get(k), Mapping)]
    main = main or [checkpoint]
    seen = set()
    for i, found in enumerate([*main, *(weights for _, weights in weights_in(checkpoint))]):
        if id(found) not in seen:
            seen.add(id(found))
            for key, value in found.items():
                if isinstance(key, str) and (i < len(main) or not isinstance(value, Mapping)):
                    yield key, value


def _is_finite(value: Any) -> bool:
    if not is_dense(value) or not value.is_floating_point() or value.is_meta:
        return True
    stored = _stored(value)
    checked = stored if value.numel() > stored.numel() else value
    # torch.isfinite does not support eight-bit floats.
    checked = checked.float() if checked.element_size() < 2 else checked
    return bool(torch.isfinite(checked).all())


def _stored(value: Tensor) -> Tensor:
    """The values in a tensor's storage. An expanded tensor has more elements than its storage."""
    storage = value.untyped_storage()
    count = storage.nbytes() // value.element_size()
    return value.detach().new_empty(0).set_(storage, 0, (count,), (1,))

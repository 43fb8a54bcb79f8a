"""NumPy arrays in pickles: made of their bytes alone; and turned into tensors if they are weights.

NumPy pickles the names of functions that make an array and fill it. The functions here take their
place: they take numbers, truth values and text, and no objects.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .file_checks import FLOATS
from .nested import weights_in
from .stand_ins import StandIn
from .unpickler import Unfinished

_PLAIN_DTYPE = re.compile(
    r'[?bBhHiIlLqQefdgFDG]|b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][0-9]{1,9}'
)
_ARRAY = 'numpy.ndarray'  # not the class itself, which makes arrays of any size


class _Dtype(Unfinished):
    """A dtype whose byte order is still to come."""

    __slots__ = ('begun',)
    begun: np.dtype

    def __init__(self, begun: np.dtype) -> None:
        super().__init__('numpy', 'dtype')
        object.__setattr__(self, 'begun', begun)

    def finished(self, state: Any) -> Any:
        order, subarray, names, fields = state[1:5]
        if not (subarray is names is fields is None) or len(state) > 8:
            return StandIn('numpy', 'dtype')
        return self.begun.newbyteorder(order) if order in ('<', '>') else self.begun


class _Array(Unfinished):
    """An array whose shape and bytes are still to come."""

    __slots__ = ()

    def finished(self, state: Any) -> Any:
        shape, dtype, by_columns, data = state[-4:]
        return _array(data, dtype, shape, 'F' if by_columns else 'C')


def dtype(code: Any, align: Any = False, copy: Any = False) -> StandIn:
    """In place of ``numpy.dtype``, which pickles call with such a code as ``'f4'``."""
    plain = isinstance(code, str) and _PLAIN_DTYPE.fullmatch(code)
    return _Dtype(np.dtype(code)) if plain else StandIn('numpy', 'dtype')


def reconstruct(kind: Any, shape: Any, code: Any) -> StandIn:
    """In place of ``numpy.core.multiarray._reconstruct``: an array to be filled, of no size yet."""
    return _Array('numpy', 'ndarray')


def scalar(kind: Any, data: Any = b'') -> Any:
    """In place of ``numpy.core.multiarray.scalar``."""
    return _array(data, kind, (), 'C')[()] if kind.itemsize else kind.type()


def from_buffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """In place of ``numpy.core.numeric._frombuffer``."""
    array = _array(data, kind, shape, 'F' if order == 'F' else 'C')
    return array.transpose(axes) if order == 'K' and axes is not None else array


def _array(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    """An array with memory of its own.

    Raises:
        pickle.UnpicklingError: The bytes are not those of such an array.
    """
    if isinstance(kind, StandIn):
        return StandIn('numpy', 'ndarray')
    data = data.encode('latin-1') if isinstance(data, str) else data  # as Python 2 wrote it
    if not (
        isinstance(kind, np.dtype)
        and isinstance(data, bytes | bytearray)
        and isinstance(shape, tuple)
        and all(type(side) is int and side >= 0 for side in shape)
        and kind.itemsize
    ):
        raise pickle.UnpicklingError('refused an array that is not made of bytes')
    return np.frombuffer(data, kind).reshape(shape, order=order).copy(order='K')


TABLE: Mapping[str, Any] = {
    'numpy.dtype': dtype,
    _ARRAY: _ARRAY,
    **{
        f'numpy.{core}.{name}': function
        for core in ('core', '_core')  # before NumPy 2, and from then on
        for name, function in {
            'multiarray._reconstruct': reconstruct,
            'multiarray.scalar': scalar,
            'numeric._frombuffer': from_buffer,
        }.items()
    },
}


def as_tensors(content: Any, size: int) -> None:
    """Makes tensors of a state dict's NumPy arrays, in place; they share memory if they can.

    A state dict that holds tensors as well keeps its arrays, which are no weights there.

    Args:
        content: What was read.
        size: Bytes of the file. Arrays that claim more stay as they are: they were not in it.
    """
    for _, weights in weights_in(content):
        arrays = {key: value for key, value in weights.items() if isinstance(value, np.ndarray)}
        own_memory = {id(array): array.nbytes for array in arrays.values()}
        if (
            isinstance(weights, dict)
            and any(_is_weight(key, array) for key, array in arrays.items())
            and not any(isinstance(value, Tensor) for value in weights.values())
            and sum(own_memory.values()) <= size
        ):
            made = {id(array): _as_tensor(array) for array in arrays.values()}
            weights.update({key: made[id(array)] for key, array in arrays.items()})


def _is_weight(key: Any, array: np.ndarray) -> bool:
    return isinstance(key, str) and key.endswith(FLOATS) and array.dtype.kind == 'f'


def _as_tensor(array: np.ndarray) -> Any:
    """A tensor; the array itself where torch has no such numbers."""
    try:
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder('='), 'W'))
    except TypeError:
        return array

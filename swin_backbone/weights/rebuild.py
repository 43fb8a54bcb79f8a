"""The globals that :mod:`.unpickler` resolves: containers, arrays, tensors and the user's own.

The functions here replace those that pickles name. They check their arguments and create
containers, arrays that own their memory, and tensors within a storage of the file.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .placeholders import Placeholder
from .unpickler import Unfinished, checked_key

# Pickles give the dtype of a storage by its class.
_STORAGES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
    'ComplexDouble': torch.complex128,
    'ComplexFloat': torch.complex64,
}
# Classes that pickles pass to functions. Their names take their place, so that nothing calls them.
_TENSOR, _PARAMETER = 'torch.Tensor', 'torch.nn.parameter.Parameter'
_ARRAY = 'numpy.ndarray'
_MOST_DIMENSIONS = 64
_PLAIN_DTYPE = re.compile(
    r'[?bBhHiIlLqQefdgFDG]|b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][0-9]{1,9}'
)


@dataclass(frozen=True)
class Storage:
    """Memory that tensors share."""

    memory: torch.UntypedStorage  # on any device
    dtype: torch.dtype  # of the values


def allowed_globals() -> dict[str, Any]:
    """The allowed globals by full name, with those of ``torch.serialization.add_safe_globals``."""
    return {**_user_globals(), **_TABLE}


def allowed_classes() -> list[type]:
    """The classes of ``add_safe_globals``, without NumPy's, which could allocate any memory."""
    classes = [value for value in _user_globals().values() if isinstance(value, type)]
    return [value for value in classes if not issubclass(value, np.ndarray | np.dtype)]


def _user_globals() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in torch.serialization.get_safe_globals():
        value: Any = one[0] if isinstance(one, tuple) else one
        name = one[1] if isinstance(one, tuple) else f'{value.__module__}.{value.__qualname__}'
        found[name] = value
    return found


# --- containers -----------------------------------------------------------------------------------


def _ordered(items: Any = ()) -> OrderedDict:
    pairs = items.items() if isinstance(items, Mapping) else items
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _encoded(text: Any, encoding: Any = 'latin1') -> bytes:
    """Replaces ``_codecs.encode``, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError('refused to encode anything but bytes')
    return text.encode('latin-1')


# --- tensors --------------------------------------------------------------------------------------


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Replaces ``torch._utils._rebuild_tensor_v2``; refuses tensors that exceed their storage."""
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError('refused a tensor that is not made of a storage')
    return _tensor_v3(
        storage, offset, shape, strides, requires_grad, hooks, storage.dtype, metadata
    )


def _tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    """Replaces ``torch._utils._rebuild_tensor_v3``, for dtypes without a storage class."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype) or metadata:
        raise pickle.UnpicklingError('refused a tensor that is not made of a storage')
    end = _end(offset, shape, strides)
    if end > storage.memory.nbytes() // dtype.itemsize:
        raise pickle.UnpicklingError(
            f'refused a tensor of {end} values: its storage has {storage.memory.nbytes()} bytes'
        )
    empty = torch.empty(0, dtype=dtype, device=storage.memory.device)
    tensor = empty.set_(storage.memory, offset, shape, strides)
    return tensor.requires_grad_(requires_grad is True and _has_gradient(tensor))


def _end(offset: Any, shape: Any, strides: Any) -> int:
    """The number of values that a tensor's storage must have."""
    numbers = (offset, *_numbers(shape), *_numbers(strides))
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError('refused a tensor whose shape is invalid')
    if 0 in shape:
        return 0
    return offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1


def _numbers(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS else (None,)


def _meta_tensor(dtype: Any, shape: Any, strides: Any, requires_grad: Any = False) -> Tensor:
    """Replaces ``torch._utils._rebuild_meta_tensor_no_storage``."""
    _end(0, shape, strides)
    return torch.empty_strided(shape, strides, dtype=dtype, device='meta')


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    """Replaces ``torch._utils._rebuild_parameter`` and its variant with attributes."""
    if type(data) is not Tensor:
        raise pickle.UnpicklingError('refused a parameter that is not made of a tensor')
    return nn.Parameter(data.detach(), requires_grad is True and _has_gradient(data))


def _of_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """Replaces ``torch._tensor._rebuild_from_type_v2``; drops attributes and other subclasses."""
    allowed = (_tensor, _tensor_v3, _meta_tensor, _parameter)
    if not any(function is one for one in allowed) or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError('refused a tensor of another class')
    placeholder = next((a for a in arguments if isinstance(a, Placeholder)), None)
    made = function(*arguments) if placeholder is None else placeholder
    if kind == _PARAMETER and type(made) is Tensor:
        return _parameter(made, made.requires_grad)
    return made


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _size(sides: Any = ()) -> torch.Size:
    _end(0, tuple(sides), tuple(sides))
    return torch.Size(sides)


# --- arrays ---------------------------------------------------------------------------------------


class _Dtype(Unfinished):
    """A dtype before its state, which holds the byte order."""

    __slots__ = ('native',)
    native: np.dtype

    def __init__(self, native: np.dtype) -> None:
        super().__init__('numpy', 'dtype')
        object.__setattr__(self, 'native', native)

    def finished(self, state: Any) -> Any:
        order, subarray, names, fields = state[1:5]
        if not (subarray is names is fields is None) or len(state) > 8:
            return Placeholder('numpy', 'dtype')
        return self.native.newbyteorder(order) if order in ('<', '>') else self.native


class _Array(Unfinished):
    """An array before its state, which holds shape and bytes."""

    __slots__ = ()

    def finished(self, state: Any) -> Any:
        shape, dtype, is_fortran, data = state[-4:]
        return _array(data, dtype, shape, 'F' if is_fortran else 'C')


def _dtype(code: Any, align: Any = False, copy: Any = False) -> Placeholder:
    """Replaces ``numpy.dtype``, which pickles call with a code such as ``'f4'``."""
    plain = isinstance(code, str) and _PLAIN_DTYPE.fullmatch(code)
    return _Dtype(np.dtype(code)) if plain else Placeholder('numpy', 'dtype')


def _reconstruct(kind: Any, shape: Any, code: Any) -> Placeholder:
    """Replaces ``numpy.core.multiarray._reconstruct``: an array whose state follows."""
    return _Array('numpy', 'ndarray')


def _scalar(kind: Any, data: Any = b'') -> Any:
    """Replaces ``numpy.core.multiarray.scalar``."""
    return _array(data, kind, (), 'C')[()] if kind.itemsize else kind.type()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Replaces ``numpy.core.numeric._frombuffer``."""
    array = _array(data, kind, shape, 'F' if order == 'F' else 'C')
    return array.transpose(axes) if order == 'K' and axes is not None else array


def _array(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    """An array that owns its memory; refused unless the bytes are those of such an array."""
    if isinstance(kind, Placeholder):
        return Placeholder('numpy', 'ndarray')
    data = data.encode('latin-1') if isinstance(data, str) else data  # written by Python 2
    if not (
        isinstance(kind, np.dtype)
        and isinstance(data, bytes | bytearray)
        and isinstance(shape, tuple)
        and all(type(side) is int and side >= 0 for side in shape)
        and kind.itemsize
    ):
        raise pickle.UnpicklingError('refused an array that is not made of bytes')
    return np.frombuffer(data, kind).reshape(shape, order=order).copy(order='K')


_TABLE: dict[str, Any] = {
    'numpy.dtype': _dtype,
    _ARRAY: _ARRAY,
    **{
        f'numpy.{core}.{name}': function
        for core in ('core', '_core')  # before NumPy 2, and from then on
        for name, function in {
            'multiarray._reconstruct': _reconstruct,
            'multiarray.scalar': _scalar,
            'numeric._frombuffer': _from_buffer,
        }.items()
    },
    'collections.OrderedDict': _ordered,
    'collections.Counter': lambda items=(): Counter(dict(_ordered(items))),
    'builtins.set': lambda items=(): set(map(checked_key, items)),
    'builtins.frozenset': lambda items=(): frozenset(map(checked_key, items)),
    'builtins.bytes': lambda: b'',
    'builtins.complex': complex,
    '_codecs.encode': _encoded,
    'torch.Size': _size,
    'torch.device': lambda *what: torch.device(*what),
    _TENSOR: _TENSOR,
    _PARAMETER: _PARAMETER,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_meta_tensor_no_storage': _meta_tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _of_type,
    **{f'torch.{name}': v for name, v in vars(torch).items() if isinstance(v, torch.dtype)},
    **{
        f'{module}.{name}Storage': dtype
        for module in ('torch', 'torch.cuda')
        for name, dtype in _STORAGES.items()
    },
    'torch.storage.UntypedStorage': torch.uint8,
}

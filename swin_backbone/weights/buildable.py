"""What :mod:`.unpickler` may build: containers, arrays, tensors, and what the user allowed."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import arrays
from .stand_ins import StandIn
from .unpickler import checked_key

# In pickles a storage's class says what its numbers are.
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
_TENSOR, _PARAMETER = 'torch.Tensor', 'torch.nn.parameter.Parameter'  # not the classes themselves
_MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class Storage:
    """Memory that tensors share.

    Attributes:
        memory: On whatever device.
        dtype: Of its numbers.
    """

    memory: torch.UntypedStorage
    dtype: torch.dtype


def table() -> dict[str, Any]:
    """By full name, the functions that may be called and the names that may be given to them.

    The user's are those of ``torch.serialization.add_safe_globals``.
    """
    allowed: dict[str, Any] = {}
    for one in torch.serialization.get_safe_globals():
        value, name = one if isinstance(one, tuple) else (one, _full_name(one))
        allowed[name] = value
    return {**allowed, **_TABLE}


def classes() -> Iterable[type]:
    """The classes that the user, or this package, allowed; NumPy's are not made by their own."""
    for one in torch.serialization.get_safe_globals():
        value = one[0] if isinstance(one, tuple) else one
        if isinstance(value, type) and not issubclass(value, np.ndarray | np.dtype):
            yield value


def _full_name(value: Any) -> str:
    return f'{value.__module__}.{value.__qualname__}'


# --- containers -----------------------------------------------------------------------------------


def _ordered(items: Any = ()) -> OrderedDict:
    pairs = items.items() if isinstance(items, Mapping) else items
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _counter(items: Any = ()) -> Counter:
    return Counter(dict(_ordered(items)))


def _set(items: Any = ()) -> set:
    return set(map(checked_key, items))


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(map(checked_key, items))


def _no_bytes() -> bytes:
    return b''


def _encoded(text: Any, encoding: Any = 'latin1') -> bytes:
    """In place of ``_codecs.encode``, which protocol 2 makes bytes with."""
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
    """In place of ``torch._utils._rebuild_tensor_v2``.

    Raises:
        pickle.UnpicklingError: The tensor would reach beyond its storage.
    """
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
    """In place of ``torch._utils._rebuild_tensor_v3``, for types that have no storage class."""
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
    """The number of values that a storage must have for a tensor."""
    numbers = (offset, *_numbers(shape), *_numbers(strides))
    if any(type(n) is not int or n < 0 for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError('refused a tensor whose shape is none')
    if 0 in shape:
        return 0
    return offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1


def _numbers(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS else (None,)


def _meta_tensor(dtype: Any, shape: Any, strides: Any, requires_grad: Any = False) -> Tensor:
    """In place of ``torch._utils._rebuild_meta_tensor_no_storage``: no memory at all."""
    _end(0, shape, strides)
    return torch.empty_strided(shape, strides, dtype=dtype, device='meta')


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    """In place of ``torch._utils._rebuild_parameter``, and of that with attributes, which go."""
    if type(data) is not Tensor:
        raise pickle.UnpicklingError('refused a parameter that is not made of a tensor')
    return nn.Parameter(data.detach(), requires_grad is True and _has_gradient(data))


def _of_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """In place of ``torch._tensor._rebuild_from_type_v2``; attributes go, and other classes."""
    makers = (_tensor, _tensor_v3, _meta_tensor, _parameter)
    if not any(function is maker for maker in makers) or not isinstance(arguments, tuple):
        raise pickle.UnpicklingError('refused a tensor of another class')
    stand_in = next((a for a in arguments if isinstance(a, StandIn)), None)
    made = function(*arguments) if stand_in is None else stand_in
    becomes_one = kind == _PARAMETER and type(made) is Tensor
    return _parameter(made, made.requires_grad) if becomes_one else made


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _size(sides: Any = ()) -> torch.Size:
    _end(0, tuple(sides), tuple(sides))
    return torch.Size(sides)


def _device(*what: Any) -> torch.device:
    return torch.device(*what)


_TABLE: dict[str, Any] = {
    **arrays.TABLE,
    'collections.OrderedDict': _ordered,
    'collections.Counter': _counter,
    'builtins.set': _set,
    'builtins.frozenset': _frozenset,
    'builtins.bytes': _no_bytes,
    'builtins.complex': complex,
    '_codecs.encode': _encoded,
    'torch.Size': _size,
    'torch.device': _device,
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

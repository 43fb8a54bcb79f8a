"""What Triton kernels need of a machine, and are told of it. Importing this needs no triton."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OLDEST_TRITON = (3, 3)  # whose compiler knows tuples


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Why kernels cannot compute in a dtype on a kind of device; None where they can.

    Under Triton's interpreter they take tensors of any device and of float64 too.
    """
    if importlib.util.find_spec('triton') is None:
        return 'triton is not installed'
    if (version := triton_version()) < OLDEST_TRITON:
        return f'triton {version[0]}.{version[1]} is older than 3.3, which comes with torch 2.7'
    if interpreted():
        return None if dtype.is_floating_point else f'dtype {dtype} is no float'
    if dtype not in DTYPES:
        return f'dtype {dtype} is not float16, bfloat16 or float32'
    if device != 'cuda':
        return f'{device} tensors are not on a GPU'
    if not (os.environ.get('CC') or shutil.which('gcc') or shutil.which('clang')):
        return 'triton needs a C compiler to launch kernels: gcc, clang or what CC names'
    nvidia = torch.version.cuda and torch.cuda.is_available()
    if nvidia and torch.cuda.get_device_capability() < (8, 0):
        return 'the GPU is older than Ampere (compute capability 8.0)'
    return None


@functools.cache
def triton_version() -> tuple[int, ...]:
    """Major and minor version."""
    import triton

    return tuple(int(part) for part in triton.__version__.split('.')[:2])


@functools.cache
def interpreted() -> bool:
    """Whether triton runs kernels in Python (TRITON_INTERPRET=1 when it was first imported)."""
    import triton

    return not isinstance(triton.jit(_probe), triton.JITFunction)


def _probe() -> None:
    """A kernel that does nothing."""


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many the device has; 1 where kernels are interpreted."""
    if device.type != 'cuda':
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def is_hopper(device: torch.device) -> bool:
    """Whether products read shared memory rather than registers; also where nothing is launched."""
    if device.type != 'cuda':
        return True
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device)[0] == 9


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over a tensor's elements."""
    return torch.promote_types(x.dtype, torch.float32)


def accumulator(x: Tensor) -> Any:
    """Triton's name of :func:`sum_dtype`."""
    import triton.language as tl

    return tl.float64 if x.dtype == torch.float64 else tl.float32


def index_type(reach: int) -> Any:
    """Triton's name of the narrowest type for offsets up to ``reach``."""
    import triton.language as tl

    return tl.int32 if reach < 2**31 else tl.int64

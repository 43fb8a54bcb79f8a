"""GPU requirements and launch parameters of the Triton kernels. Importing this needs no triton."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OLDEST_TRITON = (3, 3)  # the first whose compiler supports tuples


def why_not(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why Triton kernels cannot compute in a dtype on a device; None if they can.

    Triton's interpreter supports tensors of any device, and float64.
    """
    if importlib.util.find_spec('triton') is None:
        return 'triton is not installed'
    if (version := triton_version()) < OLDEST_TRITON:
        return f'triton {version[0]}.{version[1]} is older than 3.3, which comes with torch 2.7'
    if interpreted():
        return None if dtype.is_floating_point else f'dtype {dtype} is not floating point'
    if dtype not in DTYPES:
        return f'dtype {dtype} is not float16, bfloat16 or float32'
    device = torch.device(device)
    if device.type != 'cuda':
        return f'{device.type} tensors are not on a GPU'
    if not _has_compiler(os.environ.get('CC'), os.environ.get('PATH')):
        return 'triton needs a C compiler to launch kernels: gcc, clang or what CC names'
    nvidia = torch.version.cuda and torch.cuda.is_available()
    if nvidia and torch.cuda.get_device_capability(device) < (8, 0):
        return 'the GPU is older than Ampere (compute capability 8.0)'
    return None


@functools.cache
def _has_compiler(cc: str | None, path: str | None) -> bool:
    """Whether a C compiler is found. The arguments are the environment variables CC and PATH."""
    return bool(cc or shutil.which('gcc', path=path) or shutil.which('clang', path=path))


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
    """An empty kernel."""


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors of the device; 1 if kernels are interpreted."""
    if device.type != 'cuda':
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def is_hopper(device: torch.device) -> bool:
    """Whether matrix products read their operands from shared memory; True off GPUs."""
    if device.type != 'cuda':
        return True
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device)[0] == 9


def allows_tf32() -> bool:
    """Whether the user allows TF32 for float32 matrix products."""
    matmul = torch.backends.cuda.matmul
    # Since torch 2.9. Once it was set, torch.get_float32_matmul_precision() raises an error.
    if hasattr(matmul, 'fp32_precision'):
        return matmul.fp32_precision == 'tf32'
    return torch.get_float32_matmul_precision() != 'highest'


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over the elements of ``x``: float32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)


def accumulator(x: Tensor) -> Any:
    """:func:`sum_dtype` as a Triton dtype."""
    import triton.language as tl

    return tl.float64 if x.dtype == torch.float64 else tl.float32


def index_type(reach: int) -> Any:
    """The narrowest Triton dtype for offsets up to ``reach``."""
    import triton.language as tl

    return tl.int32 if reach < 2**31 else tl.int64

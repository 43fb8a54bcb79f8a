"""The folder in which the test suite keeps peers apart (``requirements/peers.txt``)."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from pathlib import Path

import torch

APART = Path(sys.prefix, 'peers')


@functools.cache
def declare_operators() -> None:
    """Makes torchvision importable where its compiled library does not load.

    Importing torchvision needs two operators. Beside a torch with CUDA its library defines them,
    and defining one twice aborts the process; beside one without CUDA the index's library does not
    load. The library is loaded first, and what is missing then is declared. It is never called.
    """
    spec = importlib.util.find_spec('torchvision')
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob('_C.*'):
        with contextlib.suppress(OSError):  # what it is linked against is missing
            torch.ops.load_library(library)
    for name in ('nms', 'qnms'):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')

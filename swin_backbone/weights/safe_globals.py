"""Lets ``torch.load(weights_only=True)`` open mmengine's checkpoints.

They hold message histories, which pickle NumPy arrays and references to their statistics methods.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from typing import Any

import numpy as np
import torch

_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'


def allow_mmengine_objects() -> None:
    """Allows message histories and NumPy arrays in this process; further calls are harmless."""
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All']}
    torch.serialization.add_safe_globals(
        [
            (LazyHistoryBuffer, _HISTORY),
            np.ndarray,
            np.dtype,
            *dtypes,
            # NumPy 2 moved these; files hold the names of the NumPy that wrote them.
            *_under_both_names('multiarray', '_reconstruct'),
            *_under_both_names('multiarray', 'scalar'),
            (_history_statistic, 'builtins.getattr'),
        ]
    )


class _CallsHistoryBuffer(type):
    def __call__(cls, *args: Any) -> Any:
        return _history()(*args)  # pickles may call the class, which checks the arguments


class LazyHistoryBuffer(metaclass=_CallsHistoryBuffer):
    """Replaces mmengine's HistoryBuffer in pickles, so that mmengine is imported when needed."""

    def __new__(cls, *args: Any) -> Any:
        history = _history()
        # torch sets the state only of objects whose class is allowed.
        torch.serialization.add_safe_globals([(history, f'{_HISTORY} itself')])
        return history.__new__(history, *args)


def _history() -> Any:
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer


def _under_both_names(module: str, name: str) -> list[tuple[Any, str]]:
    # NumPy 1.26 has both modules; the new one has no attributes until it is imported.
    core = 'numpy._core' if importlib.util.find_spec('numpy._core') else 'numpy.core'
    function = getattr(importlib.import_module(f'{core}.{module}'), name)
    return [(function, f'numpy.{place}.{module}.{name}') for place in ('core', '_core')]


def _history_statistic(owner: Any, name: str) -> Any:
    """Replaces ``getattr`` in pickles, by which a HistoryBuffer refers to its methods.

    ``getattr`` itself would give access to every attribute of every allowed object.
    """
    if owner in (LazyHistoryBuffer, _history()) and name in ('min', 'max', 'mean', 'current'):
        return getattr(_history(), name)
    raise pickle.UnpicklingError(f'refused getattr({owner!r}, {name!r})')

"""What ``torch.load(weights_only=True)`` may build beside tensors: what mmengine itself writes.

That is its message histories, which pickle NumPy arrays and references to their statistics methods.
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
    """Lets torch build exactly those, in this process. Safe to call twice."""
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All']}
    torch.serialization.add_safe_globals(
        [
            (HistoryBufferOnDemand, _HISTORY),
            np.ndarray,
            np.dtype,
            *dtypes,
            # NumPy 2 moved these; files carry the name of the NumPy that wrote them.
            *_under_both_names('multiarray', '_reconstruct'),
            *_under_both_names('multiarray', 'scalar'),
            (_history_statistic, 'builtins.getattr'),
        ]
    )


class _CallsHistoryBuffer(type):
    def __call__(cls, *args: Any) -> Any:
        return _history()(*args)  # pickles may call the class, too, which checks the arguments


class HistoryBufferOnDemand(metaclass=_CallsHistoryBuffer):
    """Stands for mmengine's HistoryBuffer in pickles, so that mmengine is not imported before."""

    def __new__(cls, *args: Any) -> Any:
        history = _history()
        # torch sets the state of objects alone whose class it knows.
        torch.serialization.add_safe_globals([(history, f'{_HISTORY} itself')])
        return history.__new__(history, *args)


def _history() -> Any:
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer


def _under_both_names(module: str, name: str) -> list[tuple[Any, str]]:
    # NumPy 1.26 has both modules already, the new one without attributes until it is imported.
    core = 'numpy._core' if importlib.util.find_spec('numpy._core') else 'numpy.core'
    function = getattr(importlib.import_module(f'{core}.{module}'), name)
    return [(function, f'numpy.{place}.{module}.{name}') for place in ('core', '_core')]


def _history_statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in pickles: a HistoryBuffer refers to its methods with it.

    The real one would be a way to any attribute of any allowed object.
    """
    if owner in (HistoryBufferOnDemand, _history()) and name in ('min', 'max', 'mean', 'current'):
        return getattr(_history(), name)
    raise pickle.UnpicklingError(f'WeightsUnpickler error: refused getattr({owner!r}, {name!r})')

"""Dtypes in which operators compute."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on the device of ``x``; None if autocast is off."""
    device = x.device.type
    if device != 'meta' and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def products_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with ``x``: autocast's if it is on, else that of ``x``."""
    return autocast_dtype(x) or x.dtype

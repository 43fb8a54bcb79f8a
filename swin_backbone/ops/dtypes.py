"""Which dtype an operator computes in."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype for tensors on the device of ``x``; None where it is off."""
    device = x.device.type
    if device != 'meta' and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def products_dtype(x: Tensor) -> torch.dtype:
    """The dtype of products with ``x``: autocast's, where it is on."""
    return autocast_dtype(x) or x.dtype

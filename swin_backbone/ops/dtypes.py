"""Which dtype an operator computes in."""

from __future__ import annotations

import torch
from torch import Tensor


def products_dtype(x: Tensor) -> torch.dtype:
    """The dtype of products with ``x``: autocast's, where it is on for its device."""
    device = x.device.type
    if device != 'meta' and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype

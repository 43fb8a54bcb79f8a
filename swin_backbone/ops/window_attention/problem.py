"""What a backend needs to know of a call to say whether it can take it."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Problem(NamedTuple):
    """A call without its tensors, so that a choice can be explained without any."""

    device: str
    dtype: torch.dtype
    window_size: int
    head_dim: int
    dropout_p: float = 0.0

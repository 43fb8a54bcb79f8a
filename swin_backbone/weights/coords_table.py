"""V2's ``relative_coords_table``, from which the window sizes of a file are detected.

For windows of side M the table is (1, 2M - 1, 2M - 1, 2). It holds the values
sign(d) · log8(1 + 8 |d| / (P - 1)) of the offsets d from 1 - M to M - 1, where P is the side of the
windows in pretraining, or M. The table is a buffer: models compute their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops.window_attention.positions import log_spaced_coordinates
from .tensors import is_dense

TABLE = '.attn.w_msa.relative_coords_table'


def table_of(window: int, pretrained: int | None = None) -> Tensor:
    """The float32 table for windows of side M = ``window`` and P = ``pretrained``, default M."""
    coordinates = log_spaced_coordinates(window, pretrained or 0, torch.device('cpu'))
    return coordinates.unflatten(0, (2 * window - 1,) * 2)[None]


def window_of(table: Any) -> int | None:
    """The side M of a table's windows; None if the value is not such a table."""
    if not is_dense(table) or table.dim() != 4:
        return None
    one, rows, columns, two = table.shape
    fits = one == 1 and two == 2 and rows == columns and rows % 2 == 1
    return (rows + 1) // 2 if fits else None


def pretrained_window_of(table: Any) -> int | None:
    """The side P of the windows in pretraining; None if it cannot be computed."""
    window = window_of(table)
    if window is None or window < 2 or table.is_meta or not table.is_floating_point():
        return None
    farthest = table[0, -1, -1, 0].item()
    if not 0.01 < farthest < 10:  # also rejects NaN
        return None
    pretrained = 1 + round(8 * (window - 1) / (8**farthest - 1))
    return pretrained if pretrained > 1 else None


def pretrained_windows(neutral: Mapping[str, Any]) -> tuple[int, ...]:
    """P of each stage, from weights in the neutral layout; () if one of them is unknown."""
    stages = {
        int(m[1]) for key in neutral if (m := re.match(r'stages\.([0-9]{1,4})\.blocks\.', key))
    }
    tables = [neutral.get(f'stages.{stage}.blocks.0{TABLE}') for stage in sorted(stages)]
    found = [window for table in tables if (window := pretrained_window_of(table)) is not None]
    return tuple(found) if len(found) == len(tables) else ()

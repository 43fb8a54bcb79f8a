"""The layouts that checkpoints come in, told by their keys; one file a layout.

Each module has ``NAME``, ``matches(keys)`` and ``to_openmmlab(state_dict)``. OpenMMLab's layout is
the neutral one: every other is translated to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from . import microsoft, openmmlab

FORMATS = (openmmlab, microsoft)


def detect(keys: Iterable[str]) -> ModuleType | None:
    """The layout that the keys of a backbone's state dict are in, or None."""
    keys = list(keys)
    return next((layout for layout in FORMATS if layout.matches(keys)), None)

"""The layouts of weights and their detection from the keys. Each layout has its own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...argument_values import same, shown
from ...errors import ArgumentError, CheckpointError
from .detectron2 import DETECTRON2
from .layout import Layout, version_of, with_norm_of_last_output
from .microsoft import MICROSOFT
from .mmpretrain import MMPRETRAIN
from .openmmlab import OPENMMLAB
from .timm import TIMM
from .torchvision import TORCHVISION
from .transformers import TRANSFORMERS

__all__ = [
    'FORMATS',
    'Layout',
    'by_name',
    'detect',
    'locate',
    'strip_prefix',
    'version_of',
    'with_norm_of_last_output',
]

# Of two similar layouts the more specific one comes first.
FORMATS = (MMPRETRAIN, OPENMMLAB, DETECTRON2, TIMM, MICROSOFT, TORCHVISION, TRANSFORMERS)


def by_name(name: str) -> Layout:
    """The layout with a name.

    Raises:
        ArgumentError: There is none.
    """
    for layout in FORMATS:
        if same(layout.name, name):
            return layout
    known = ', '.join(sorted(layout.name for layout in FORMATS))
    raise ArgumentError(f'unknown format {shown(name)}; it is one of {known}')


def locate(state_dict: Mapping[str, Any]) -> dict[str, Layout]:
    """The prefixes and layouts of all Swin Transformers in a state dict of any model."""
    found, claimed = {}, set()
    for layout in FORMATS:
        roots: dict[str, list[str]] = {}
        for key in state_dict:
            if key not in claimed and (match := re.match(layout.root, key)):
                roots.setdefault(match[1], []).append(key)
        for prefix, keys in roots.items():
            if layout.accepts(strip_prefix(state_dict, prefix)):
                found[prefix] = layout
                claimed.update(keys)
    return found


def detect(state_dict: Mapping[str, Any]) -> Layout | None:
    """The layout of a backbone's state dict without a prefix, or None."""
    return locate(state_dict).get('')


def strip_prefix(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries of a state dict whose keys have a prefix, without the prefix.

    Raises:
        CheckpointError: It is not a state dict, or has a key that is not a string.
    """
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f'expected a dict of tensors, found a {type(state_dict).__name__}')
    if unnamed := [key for key in state_dict if not isinstance(key, str)]:
        raise CheckpointError(
            f'expected a dict of tensors by their names, found the key {shown(unnamed[0])}'
        )
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}

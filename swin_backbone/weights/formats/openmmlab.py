"""The layout of mmdet's and mmseg's own Swin Transformer, and of this package's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

NAME = 'OpenMMLab'
HAS_OUTPUT_NORMS = True


def matches(keys: Iterable[str]) -> bool:
    """Whether the keys of a bare backbone are in this layout."""
    return any(key.startswith(('stages.', 'patch_embed.projection.')) for key in keys)


def to_openmmlab(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same dict, as a new one."""
    return dict(state_dict)

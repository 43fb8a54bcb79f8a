"""The layout of mmdet's and mmseg's own Swin Transformer and of this package's: the neutral one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from .layout import OFFICIAL_BLOCK, OFFICIAL_STEM, Layout, version_of

Value = TypeVar('Value')


class OpenMMLab(Layout):
    unfolds = True
    has_output_norms = True

    def renamed(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """As for every layout, from V2's as this package has it, and as mmpretrain has it.

        In mmpretrain's V2 the patch merging opens a stage instead of closing the one before.
        """
        named = super().renamed(state_dict)
        merging = {
            m[1] for key in named if (m := re.match(r'stages\.([0-9]{1,4})\.downsample\.', key))
        }
        if version_of(named) == 1 or not merging or '0' in merging:
            return named
        return with_mergings_moved(named, -1)

    def _own_name(self, key: str) -> str | None:
        # This package's addition: no other layout has it.
        return key if key.startswith('global_attention.') else super()._own_name(key)


def with_mergings_moved(named: Mapping[str, Value], by: int) -> dict[str, Value]:
    """Neutral names, with the patch mergings' stages numbered higher by so many."""

    def moved(match: re.Match) -> str:
        return f'stages.{int(match[1]) + by}.downsample.'

    return {re.sub(r'^stages\.([0-9]{1,4})\.downsample\.', moved, k): v for k, v in named.items()}


# V2's largest variants have a third norm in some blocks.
OPENMMLAB_BLOCK = {name: name for name in (*OFFICIAL_BLOCK, 'norm3')}
OPENMMLAB = OpenMMLab(
    name='openmmlab',
    title='mmdet, mmseg and swin_backbone',
    root=r'(.*?)stages\.[0-9]{1,4}\.blocks\.[0-9]{1,4}\.attn\.w_msa\.',
    block='stages.{stage}.blocks.{block}',
    merging='stages.{stage}.downsample',
    members=OPENMMLAB_BLOCK,
    stem={name: name for name in OFFICIAL_STEM},
    embedding=3,
    container='state_dict',
)

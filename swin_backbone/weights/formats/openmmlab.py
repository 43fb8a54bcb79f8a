"""The neutral layout, of mmdet's, mmseg's and this package's Swin Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .layout import OFFICIAL_BLOCK, OFFICIAL_STEM, Layout, version_of, with_mergings_moved


class OpenMMLab(Layout):
    unfolds = True
    has_output_norms = True

    def _with_neutral_mergings(self, named: dict[str, Any]) -> dict[str, Any]:
        # Up to version 0.2 of this package V2's patch mergings belonged to the stage before them.
        closing = any(key.startswith('stages.0.downsample.') for key in named)
        return with_mergings_moved(named, 1) if closing and version_of(named) == 2 else named

    def _with_own_mergings(self, neutral: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return neutral

    def _own_name(self, key: str) -> str | None:
        # Only this package has this layer.
        return key if key.startswith('global_attention.') else super()._own_name(key)


# Some blocks of V2's largest variants have a third norm.
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

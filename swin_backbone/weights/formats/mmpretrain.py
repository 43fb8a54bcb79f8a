"""mmpretrain's classifiers: OpenMMLab's names under ``backbone.``, and a classifier beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .layout import OFFICIAL_BLOCK, OFFICIAL_STEM, Layout, last_stage


class MMPretrain(Layout):
    unfolds = True

    def accepts(self, keys: Mapping[str, Any]) -> bool:
        return 'head.fc.weight' in keys

    def from_openmmlab(
        self, state_dict: Mapping[str, Tensor], dropped: list[str] | None = None
    ) -> dict[str, Tensor]:
        """As for every layout; the norm before the classifier is the last output's here."""
        last = f'norm{last_stage(state_dict)}.'
        if f'{last}weight' not in state_dict:
            state_dict = {
                last + key.removeprefix('norm.') if key.startswith('norm.') else key: value
                for key, value in state_dict.items()
            }
        return super().from_openmmlab(state_dict, dropped)


MMPRETRAIN = MMPretrain(
    name='mmpretrain',
    title='mmpretrain (mmcls)',
    root=r'(.*?)backbone\.stages\.\d+\.blocks\.\d+\.attn\.w_msa\.',
    own=r'(backbone|head\.fc)\.',
    block='backbone.stages.{stage}.blocks.{block}',
    merging='backbone.stages.{stage}.downsample',
    members={name: name for name in OFFICIAL_BLOCK},
    stem={name: f'backbone.{name}' for name in OFFICIAL_STEM} | {'head.fc': 'head.fc'},
    output_norm='backbone.norm{stage}',
    embedding=3,
    container='state_dict',
)

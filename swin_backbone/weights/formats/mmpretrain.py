"""mmpretrain's classifiers: OpenMMLab's names under ``backbone.``, and a classifier beside it.

Source: ``mmpretrain/models/backbones/swin_transformer.py`` and ``swin_transformer_v2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .layout import OFFICIAL_STEM, with_norm_of_last_output
from .openmmlab import OPENMMLAB_BLOCK, OpenMMLab


class MMPretrain(OpenMMLab):
    has_output_norms = False

    def accepts(self, keys: Mapping[str, Any]) -> bool:
        return 'head.fc.weight' in keys

    def _prepared(self, neutral: Mapping[str, Tensor], dropped: list[str]) -> Mapping[str, Tensor]:
        return with_norm_of_last_output(neutral)


MMPRETRAIN = MMPretrain(
    name='mmpretrain',
    title='mmpretrain (mmcls)',
    root=r'(.*?)backbone\.stages\.[0-9]{1,4}\.blocks\.[0-9]{1,4}\.attn\.w_msa\.',
    own=r'(backbone|head\.fc)\.',
    block='backbone.stages.{stage}.blocks.{block}',
    merging='backbone.stages.{stage}.downsample',
    members=OPENMMLAB_BLOCK,
    stem={name: f'backbone.{name}' for name in OFFICIAL_STEM} | {'head.fc': 'head.fc'},
    output_norm='backbone.norm{stage}',
    embedding=3,
    container='state_dict',
)

"""The layout of mmdet's and mmseg's own Swin Transformer and of this package's: the neutral one."""

from __future__ import annotations

from .layout import OFFICIAL_BLOCK, OFFICIAL_STEM, Layout


class OpenMMLab(Layout):
    unfolds = True
    has_output_norms = True

    def _own_name(self, key: str) -> str | None:
        # This package's addition: no other layout has it.
        return key if key.startswith('global_attention.') else super()._own_name(key)


OPENMMLAB = OpenMMLab(
    name='openmmlab',
    title='mmdet, mmseg and swin_backbone',
    root=r'(.*?)stages\.\d+\.blocks\.\d+\.attn\.w_msa\.',
    block='stages.{stage}.blocks.{block}',
    merging='stages.{stage}.downsample',
    members={name: name for name in OFFICIAL_BLOCK},
    stem={name: name for name in OFFICIAL_STEM},
    embedding=3,
    container='state_dict',
)

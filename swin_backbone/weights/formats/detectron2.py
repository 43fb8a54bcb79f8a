"""detectron2's Swin Transformer below a feature pyramid: the official names under ``bottom_up.``.

Source: ``detectron2/modeling/backbone/swin.py`` and ``fpn.py`` of facebookresearch/detectron2.
"""

from __future__ import annotations

from .layout import OFFICIAL_STEM, Layout

DETECTRON2 = Layout(
    name='detectron2',
    title='detectron2, below a feature pyramid',
    root=r'(.*?)bottom_up\.layers\.\d+\.blocks\.\d+\.attn\.',
    own=r'bottom_up\.',
    block='bottom_up.layers.{stage}.blocks.{block}',
    merging='bottom_up.layers.{stage}.downsample',
    stem={ours: f'bottom_up.{theirs}' for ours, theirs in OFFICIAL_STEM.items()},
    output_norm='bottom_up.norm{stage}',
    embedding=4,
    container='model',
)

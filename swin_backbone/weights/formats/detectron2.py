"""detectron2's detectors: the official names under ``backbone.bottom_up.``, below an FPN.

Source: ``detectron2/modeling/backbone/swin.py`` and ``fpn.py`` of facebookresearch/detectron2.
"""

from __future__ import annotations

from .layout import OFFICIAL_STEM, Layout

DETECTRON2 = Layout(
    name='detectron2',
    title='detectron2, below a feature pyramid',
    root=r'(.*?)backbone\.bottom_up\.layers\.[0-9]{1,4}\.blocks\.[0-9]{1,4}\.attn\.',
    own=r'backbone\.bottom_up\.',
    block='backbone.bottom_up.layers.{stage}.blocks.{block}',
    merging='backbone.bottom_up.layers.{stage}.downsample',
    stem={ours: f'backbone.bottom_up.{theirs}' for ours, theirs in OFFICIAL_STEM.items()},
    output_norm='backbone.bottom_up.norm{stage}',
    embedding=4,
    container='model',
)

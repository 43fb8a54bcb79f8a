"""The official release's layout: classification, SimMIM, MoBY, detection and segmentation.

Source: the models of microsoft/Swin-Transformer and of the repositories of the SwinTransformer
organisation (Swin-Transformer-Object-Detection, -Semantic-Segmentation, Transformer-SSL). timm
before 0.9 and detrex have the same.
"""

from __future__ import annotations

from .layout import OFFICIAL_STEM, WithClassifier

MICROSOFT = WithClassifier(
    name='microsoft',
    title='the official release; timm < 0.9; detrex',
    root=r'(.*?)layers\.\d+\.blocks\.\d+\.attn\.',
    stem=OFFICIAL_STEM | {'norm': 'norm', 'head.fc': 'head', 'mask_token': 'mask_token'},
    container='model',
)

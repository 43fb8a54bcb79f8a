"""The official release's layout: classification, SimMIM, MoBY, detection and segmentation.

Source: the models of microsoft/Swin-Transformer and of the repositories of the SwinTransformer
organisation (Swin-Transformer-Object-Detection, -Semantic-Segmentation, Transformer-SSL,
MIM-Depth-Estimation). timm before 0.9 and detrex use the same layout.
"""

from __future__ import annotations

from .layout import OFFICIAL_BLOCK, OFFICIAL_STEM, Layout

MICROSOFT = Layout(
    name='microsoft',
    title='the official release; timm < 0.9; detrex',
    root=r'(.*?)layers\.[0-9]{1,4}\.blocks\.[0-9]{1,4}\.attn\.',
    members=OFFICIAL_BLOCK | {'norm3': 'enorm'},  # MIM-Depth-Estimation's
    stem=OFFICIAL_STEM | {'norm': 'norm', 'head.fc': 'head', 'mask_token': 'mask_token'},
    container='model',
    # The older name in files of V2, which the official loaders also replace.
    aliases=((r'\.attn\.rpe_mlp\.', '.attn.cpb_mlp.'),),
)

"""torchvision: one ``features`` sequence of embedding, blocks and mergings.

Source: ``torchvision/models/swin_transformer.py``.
"""

from __future__ import annotations

from .layout import OFFICIAL_BLOCK, WithClassifier

TORCHVISION = WithClassifier(
    name='torchvision',
    title='torchvision',
    root=r'(.*?)features\.\d+\.\d+\.attn\.',
    block='features.{stage}.{block}',
    merging='features.{stage}',
    members=OFFICIAL_BLOCK | {'ffn.layers.0.0': 'mlp.0', 'ffn.layers.1': 'mlp.3'},
    stem={
        'patch_embed.projection': 'features.0.0',
        'patch_embed.norm': 'features.0.2',
        'norm': 'norm',
        'head.fc': 'head',
    },
    numbering=(2, 1, 2),
    output_norm=None,
    index='flat',
)

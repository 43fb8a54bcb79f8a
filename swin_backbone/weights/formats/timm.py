"""timm from 0.9 on: a patch merging belongs to the stage after it.

Source: ``timm/models/swin_transformer.py`` and ``swin_transformer_v2.py``. Earlier releases use
the official layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .layout import OFFICIAL_STEM, Layout


class Timm(Layout):
    def accepts(self, keys: Mapping[str, Any]) -> bool:
        merging = {
            m[1] for key in keys if (m := re.match(r'layers[._]([0-9]{1,4})\.downsample\.', key))
        }
        return bool(merging) and '0' not in merging


TIMM = Timm(
    name='timm',
    title='timm ≥ 0.9',
    root=r'(.*?)layers[._][0-9]{1,4}\.blocks\.[0-9]{1,4}\.attn\.',
    numbering=(1, 0, 1),
    stem={
        **{ours: theirs for ours, theirs in OFFICIAL_STEM.items() if ours != 'absolute_pos_embed'},
        'norm': 'norm',
        'head.fc': 'head.fc',
    },
    output_norm=None,
    index='',
    # `features_only` models have `layers_0` instead of `layers.0`.
    aliases=((r'^layers_([0-9]{1,4})\.', r'layers.\1.'),),
)

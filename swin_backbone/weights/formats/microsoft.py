"""The official release's layout: classification, detection and segmentation.

Source: the models of microsoft/Swin-Transformer and of the detection and segmentation repositories
of the SwinTransformer organisation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

NAME = 'Microsoft'
# Classification files end in one `norm` before the head instead of a norm for each output.
HAS_OUTPUT_NORMS = False

_RENAMED = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
# The classifier, and buffers that follow from the configuration.
_DROPPED = re.compile(r'^(head|norm)\.|\.(attn_mask|relative_position_index)$')


def matches(keys: Iterable[str]) -> bool:
    """Whether the keys of a bare backbone are in this layout."""
    return any(re.match(r'layers\.\d+\.blocks\.|patch_embed\.proj\.', key) for key in keys)


def to_openmmlab(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the keys and brings channels into OpenMMLab's order."""
    translated = {}
    for key, value in state_dict.items():
        if _DROPPED.search(key):
            continue
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        if '.downsample.' in key:
            value = _unfold_order(value)
        elif key == 'absolute_pos_embed' and value.dim() == 4:
            value = value.flatten(2).transpose(1, 2)  # (1, C, H, W) to (1, H * W, C)
        translated[key] = value
    return translated


def _unfold_order(merged: Tensor) -> Tensor:
    """The 4C concatenated channels (..., column, row, C) to nn.Unfold's (..., C, row, column)."""
    if merged.shape[-1] % 4:
        return merged  # fits nothing; the loader says so with the key's name
    return merged.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)

"""torchvision: one ``features`` sequence of embedding, blocks and mergings.

V2 has one bias for query, key and value; its forward sets the middle third, the key's, to zero.
Source: ``torchvision/models/swin_transformer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..coords_table import TABLE
from ..tensors import concatenated, is_dense
from .layout import OFFICIAL_BLOCK, Layout, version_of

_BIAS = '.attn.w_msa.qkv.bias'
_SPLIT_BIASES = ('attn.w_msa.q_bias', 'attn.w_msa.v_bias')


class Torchvision(Layout):
    def renamed(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        named = super().renamed(state_dict)
        return _with_split_biases(named) if version_of(named) == 2 else named

    def _prepared(self, neutral: Mapping[str, Tensor], dropped: list[str]) -> Mapping[str, Tensor]:
        if version_of(neutral) == 2:
            if not any(key.endswith(TABLE) for key in neutral):
                raise CheckpointError(
                    "torchvision's V2 has buffers that depend on the window, and the weights do "
                    'not tell its size; give it with window_size= (--window on the command line)'
                )
            neutral = _with_one_bias(neutral)
        return super()._prepared(neutral, dropped)


def _with_split_biases(named: Mapping[str, Any]) -> dict[str, Any]:
    split: dict[str, Any] = {}
    for key, value in named.items():
        fits = is_dense(value) and value.dim() == 1 and len(value) and len(value) % 3 == 0
        if key.endswith(_BIAS) and fits:
            query, _, value = value.chunk(3)
            at = key.removesuffix('qkv.bias')
            split |= {f'{at}q_bias': query, f'{at}v_bias': value}
        else:
            split[key] = value
    return split


def _with_one_bias(neutral: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = dict(neutral)
    for key, query in neutral.items():
        value = neutral.get(key.replace('.q_bias', '.v_bias'))
        if key.endswith('.q_bias') and value is not None:
            at = key.removesuffix('q_bias')
            bias = concatenated((query, torch.zeros_like(query), value))
            if bias is None:
                raise CheckpointError(f'{key} and {at}v_bias are of different shapes or types')
            del merged[f'{at}q_bias'], merged[f'{at}v_bias']
            merged[f'{at}qkv.bias'] = bias
    return merged


TORCHVISION = Torchvision(
    name='torchvision',
    title='torchvision',
    root=r'(.*?)features\.[0-9]{1,4}\.[0-9]{1,4}\.attn\.',
    block='features.{stage}.{block}',
    merging='features.{stage}',
    members={name: theirs for name, theirs in OFFICIAL_BLOCK.items() if name not in _SPLIT_BIASES}
    | {'ffn.layers.0.0': 'mlp.0', 'ffn.layers.1': 'mlp.3'},
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

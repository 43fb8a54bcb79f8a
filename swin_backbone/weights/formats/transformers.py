"""Hugging Face transformers: ``SwinModel``, ``SwinBackbone``, ``Swinv2Model`` and so on.

Query, key and value are separate. All releases write the same names to files. The modules of V1 in
release 5 have other names, which are read as well. Source: ``transformers/models/swin``, ``swinv2``
and ``transformers/conversion_mapping.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ..tensors import concatenated
from .layout import Layout, version_of, with_last_norm_as_norm

_PARTS = ('query', 'key', 'value')
# Names of the modules of release 5, and those in files.
_IN_MEMORY = {
    'attention.q_proj.': 'attention.self.query.',
    'attention.k_proj.': 'attention.self.key.',
    'attention.v_proj.': 'attention.self.value.',
    'attention.o_proj.': 'attention.output.dense.',
    'attention.relative_position_bias.': 'attention.self.',
    'mlp.fc1.': 'intermediate.dense.',
    'mlp.fc2.': 'output.dense.',
}


class Transformers(Layout):
    def _merged(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        return _joined(own)

    def _prepared(self, neutral: Mapping[str, Tensor], dropped: list[str]) -> Mapping[str, Tensor]:
        if version_of(neutral) == 1:
            return super()._prepared(neutral, dropped)
        if 'absolute_pos_embed' in neutral:
            raise CheckpointError(
                "absolute_pos_embed has no place in the layout 'transformers': its Swinv2Model has "
                'one position too many for its own tokens, and the features depend on it'
            )
        # V2's modules have no output norms.
        if 'norm.weight' not in neutral:
            neutral = with_last_norm_as_norm(neutral)
        norms = [key for key in neutral if re.match(r'norm[0-9]{1,4}\.', key)]
        dropped += norms
        return {key: value for key, value in neutral.items() if key not in norms}

    def from_openmmlab(
        self, state_dict: Mapping[str, Tensor], dropped: list[str] | None = None
    ) -> dict[str, Tensor]:
        """As for every layout; in the names of the classifier, the backbone or the bare model."""
        split = _split(super().from_openmmlab(state_dict, dropped))
        if 'classifier.weight' in split:
            base = 'swinv2.' if version_of(state_dict) == 2 else 'swin.'
            return {k if k.startswith('classifier.') else base + k: v for k, v in split.items()}
        if any(key.startswith('hidden_states_norms.') for key in split):
            # `SwinBackbone` only prefixes this name.
            return {f'swin.{k}' if k.startswith('layernorm.') else k: v for k, v in split.items()}
        return split


def _joined(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Concatenates query, key and value if all three exist and fit."""
    merged = dict(state_dict)
    for key in state_dict:
        if '.self.query.' not in key:
            continue
        names = [key.replace('.self.query.', f'.self.{part}.') for part in _PARTS]
        parts: list[Any] = [state_dict.get(name) for name in names]
        if (whole := concatenated(parts)) is not None:
            for name in names:
                del merged[name]
            merged[key.replace('.self.query.', '.self.qkv.')] = whole
    return merged


def _split(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for key, value in state_dict.items():
        if '.self.qkv.' in key:
            for part, tensor in zip(_PARTS, value.chunk(3), strict=True):
                split[key.replace('.self.qkv.', f'.self.{part}.')] = tensor
        else:
            split[key] = value
    return split


TRANSFORMERS = Transformers(
    name='transformers',
    title='Hugging Face transformers',
    root=r'(.*?)(?:swin(?:v2)?\.)?encoder\.layers\.[0-9]{1,4}\.blocks\.[0-9]{1,4}\.attention\.',
    own=r'(embeddings|encoder|layernorm|hidden_states_norms|classifier)\.',
    block='encoder.layers.{stage}.blocks.{block}',
    merging='encoder.layers.{stage}.downsample',
    members={
        'norm1': 'layernorm_before',
        'norm2': 'layernorm_after',
        'attn.w_msa.relative_position_bias_table': 'attention.self.relative_position_bias_table',
        'attn.w_msa.logit_scale': 'attention.self.logit_scale',
        'attn.w_msa.q_bias': 'attention.self.query.bias',
        'attn.w_msa.v_bias': 'attention.self.value.bias',
        'attn.w_msa.cpb_mlp': 'attention.self.continuous_position_bias_mlp',
        'attn.w_msa.qkv': 'attention.self.qkv',
        'attn.w_msa.proj': 'attention.output.dense',
        'ffn.layers.0.0': 'intermediate.dense',
        'ffn.layers.1': 'output.dense',
    },
    stem={
        'patch_embed.projection': 'embeddings.patch_embeddings.projection',
        'patch_embed.norm': 'embeddings.norm',
        'absolute_pos_embed': 'embeddings.position_embeddings',
        'mask_token': 'embeddings.mask_token',
        'norm': 'layernorm',
        'head.fc': 'classifier',
    },
    output_norm='hidden_states_norms.stage{stage}',
    first_output=1,
    embedding=3,
    index='',
    aliases=(
        (r'^swin(v2)?\.', ''),
        *((re.escape(name), in_files) for name, in_files in _IN_MEMORY.items()),
    ),
)

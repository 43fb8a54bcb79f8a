"""Modules shared by the Swin family, with OpenMMLab's names and call signatures."""

from .attention import ShiftWindowMSA, WindowAttention, WindowMSA
from .attention_v2 import ShiftWindowMSAV2, WindowMSAV2
from .block import SwinBlock, SwinBlockSequence
from .block_v2 import SwinBlockV2, SwinBlockV2Sequence
from .embedding import PatchEmbed
from .from_config import build_activation, build_norm
from .global_attention import GlobalAttentionBlock
from .merging import PatchMerging
from .mlp import FFN

__all__ = [
    'FFN',
    'GlobalAttentionBlock',
    'PatchEmbed',
    'PatchMerging',
    'ShiftWindowMSA',
    'ShiftWindowMSAV2',
    'SwinBlock',
    'SwinBlockSequence',
    'SwinBlockV2',
    'SwinBlockV2Sequence',
    'WindowAttention',
    'WindowMSA',
    'WindowMSAV2',
    'build_activation',
    'build_norm',
]

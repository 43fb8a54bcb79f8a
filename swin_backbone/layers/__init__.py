"""Modules shared by the Swin family, with OpenMMLab's names and call signatures."""

from .attention import ShiftWindowMSA, WindowMSA
from .block import RECOMPUTABLE, SwinBlock, SwinBlockSequence
from .embedding import PatchEmbed
from .global_attention import GlobalAttentionBlock
from .merging import PatchMerging
from .mlp import FFN

__all__ = [
    'FFN',
    'RECOMPUTABLE',
    'GlobalAttentionBlock',
    'PatchEmbed',
    'PatchMerging',
    'ShiftWindowMSA',
    'SwinBlock',
    'SwinBlockSequence',
    'WindowMSA',
]

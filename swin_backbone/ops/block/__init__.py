"""A whole Swin block on a feature map, for where it is faster in one piece than by its modules."""

from .cpu import can_run, swin_block
from .parameters import Options, Parameters

__all__ = ['Options', 'Parameters', 'can_run', 'swin_block']

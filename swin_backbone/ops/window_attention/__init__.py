"""Shifted-window self-attention on an un-partitioned feature map."""

from .reference import shifted_window_attention

__all__ = ['shifted_window_attention']

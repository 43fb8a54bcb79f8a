"""Checkpoints: read safely, told by their keys, translated and resized to fit a model."""

from .load import is_pretrained, load_pretrained, register_state_dict_translation
from .safe_load import allow_mmengine_checkpoints, read_checkpoint

__all__ = [
    'allow_mmengine_checkpoints',
    'is_pretrained',
    'load_pretrained',
    'read_checkpoint',
    'register_state_dict_translation',
]

"""Checkpoints: read safely, told by their keys, translated and resized to fit a model."""

from .classifier import translate_classifier
from .convert import Conversion, convert, convert_file
from .inspect import Description, describe, what_would_be_resized
from .load import is_pretrained, load_pretrained, register_state_dict_translation
from .safe_load import allow_mmengine_checkpoints, read_checkpoint

__all__ = [
    'Conversion',
    'Description',
    'allow_mmengine_checkpoints',
    'convert',
    'convert_file',
    'describe',
    'is_pretrained',
    'load_pretrained',
    'read_checkpoint',
    'register_state_dict_translation',
    'translate_classifier',
    'what_would_be_resized',
]

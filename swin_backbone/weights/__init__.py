"""Checkpoints: safe reading, layout detection, translation and resizing to fit a model.

All names are imported lazily, so that the catalog can be read without importing torch.
"""

from typing import TYPE_CHECKING

from ..imports import lazy_attributes
from ..patches import allow_mmengine_checkpoints

if TYPE_CHECKING:
    from .conversion import Conversion, convert, convert_file
    from .inspect import Description, describe, what_would_be_resized
    from .load import (
        is_pretrained,
        load_pretrained,
        register_state_dict_translation,
        translate_classifier,
    )
    from .safe_load import read_checkpoint

# The names of the layouts in `formats`, which cannot be imported without torch.
LAYOUTS = (
    *('mmpretrain', 'openmmlab', 'detectron2', 'timm', 'microsoft', 'torchvision'),
    'transformers',
)
_SOURCES = {
    'conversion': ('Conversion', 'convert', 'convert_file'),
    'inspect': ('Description', 'describe', 'what_would_be_resized'),
    'load': (
        *('is_pretrained', 'load_pretrained', 'register_state_dict_translation'),
        'translate_classifier',
    ),
    'safe_load': ('read_checkpoint',),
}

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

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {name: module for module, names in _SOURCES.items() for name in names},
    submodules=(*_SOURCES, 'catalog', 'compare', 'download', 'formats', 'torch_files', 'verify'),
)

"""Checkpoints: read safely, told by their keys, translated and resized to fit a model.

The names are imported when they are used: the catalog is read without torch.
"""

from typing import TYPE_CHECKING

from ..imports import lazy_attributes
from ..patches import allow_mmengine_checkpoints

if TYPE_CHECKING:
    from .classifier import translate_classifier
    from .conversion import Conversion, convert, convert_file
    from .inspect import Description, describe, what_would_be_resized
    from .load import is_pretrained, load_pretrained, register_state_dict_translation
    from .safe_load import read_checkpoint

# The layouts that weights come in, by name; `formats` has them.
LAYOUTS = (
    *('mmpretrain', 'openmmlab', 'detectron2', 'timm', 'microsoft', 'torchvision'),
    'transformers',
)

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
    {
        'translate_classifier': 'classifier',
        **dict.fromkeys(('Conversion', 'convert', 'convert_file'), 'conversion'),
        **dict.fromkeys(('Description', 'describe', 'what_would_be_resized'), 'inspect'),
        **dict.fromkeys(
            ('is_pretrained', 'load_pretrained', 'register_state_dict_translation'), 'load'
        ),
        'read_checkpoint': 'safe_load',
    },
    submodules=(
        *('arrays', 'buildable', 'catalog', 'channels', 'classifier', 'containers', 'conversion'),
        *('coordinates', 'download', 'file_checks', 'formats', 'inspect', 'load', 'nested'),
        *('plain', 'rank_files', 'resize', 'safe_load', 'shards', 'stand_ins', 'torch_files'),
        'unpickler',
    ),
)

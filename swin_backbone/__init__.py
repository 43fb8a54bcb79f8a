"""Swin Transformer backbones for MMDetection, MMSegmentation and mmpretrain.

Importing the package registers them; a config needs only
``custom_imports = dict(imports=['swin_backbone'])``. It also lets torch open mmengine's checkpoints
without running code (``patches.py``).

The import loads neither torch nor a framework. A framework gets the backbones when its models have
been imported, before or after this package.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ArgumentError, CheckpointError, RegistrationWarning
from .imports import lazy_attributes
from .moved import keep_old_paths
from .startup import start
from .version import __version__

if TYPE_CHECKING:
    from .swin import SwinTransformer
    from .swin_v2 import SwinTransformerV2

__all__ = [
    'ArgumentError',
    'CheckpointError',
    'RegistrationWarning',
    'SwinTransformer',
    'SwinTransformerV2',
    '__version__',
    'configs_dir',
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {'SwinTransformer': 'swin', 'SwinTransformerV2': 'swin_v2'},
    submodules=(
        *('argument_values', 'arguments', 'classification', 'layers', 'ops'),
        *('options', 'patches', 'registration', 'swin', 'swin_v2', 'weights'),
    ),
)


def configs_dir() -> Path:
    """The folder of the configs: inside the installed package, or next to it in a checkout."""
    here = Path(__file__).parent
    inside = here / 'configs'
    return inside if inside.is_dir() else here.parent / 'configs'


keep_old_paths()
start()

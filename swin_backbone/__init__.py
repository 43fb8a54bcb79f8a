"""Swin Transformer backbones for MMDetection, MMSegmentation and mmpretrain.

Importing the package registers them: ``custom_imports = dict(imports=['swin_backbone'])`` in a
config is all it takes. It also lets torch open mmengine's checkpoints without running code.
"""

import sys
from pathlib import Path

from .errors import ArgumentError, CheckpointError
from .registration import RegistrationWarning, register
from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2
from .version import __version__
from .weights import allow_mmengine_checkpoints

__all__ = [
    'ArgumentError',
    'CheckpointError',
    'RegistrationWarning',
    'SwinTransformer',
    'SwinTransformerV2',
    '__version__',
    'configs_dir',
]


def configs_dir() -> Path:
    """The folder of the configs: within the installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    inside = here / 'configs'
    return inside if inside.is_dir() else here.parent / 'configs'


allow_mmengine_checkpoints()
# The command line registers when it builds a config: importing the frameworks takes seconds.
if Path(sys.argv[0] if sys.argv else '').stem != 'swin-backbone':
    register()

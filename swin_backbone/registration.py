"""Makes ``type='SwinTransformer'`` mean this package's class; alone in knowing the frameworks."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

from mmengine.registry import MODELS

from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2

# A framework's module that registers its own models, beside its registry.
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')

# Names under which a class is registered: the frameworks' own, then one that is ours alone.
NAMES = {
    SwinTransformer: ('SwinTransformer', 'SwinBackbone'),
    SwinTransformerV2: ('SwinTransformerV2', 'SwinBackboneV2'),
}


class RegistrationWarning(UserWarning):
    """A framework was left out; the message says which and why."""


def register() -> None:
    """Registers the backbones in mmengine's and in every installed framework's registry.

    A framework's own models are imported first: registered later, they would collide with ours.
    What is not installed, or fails to import, is left out with one warning. Safe to call twice.
    """
    _register_in(MODELS)
    skipped = {}
    for framework in FRAMEWORKS:
        if importlib.util.find_spec(framework) is None:
            skipped[framework] = 'not installed'
            continue
        try:
            importlib.import_module(f'{framework}.models')
            _register_in(importlib.import_module(f'{framework}.registry').MODELS)
        except Exception as error:  # whatever a broken installation may raise
            skipped[framework] = f'broken: {type(error).__name__}: {error}'
    if skipped:
        reasons = '; '.join(f'{name} ({reason})' for name, reason in skipped.items())
        warnings.warn(
            f'swin_backbone did not register in {reasons}', RegistrationWarning, stacklevel=3
        )


def _register_in(registry) -> None:
    for backbone, names in NAMES.items():
        registry.register_module(name=list(names), force=True, module=backbone)

"""Makes ``type='SwinTransformer'`` mean this package's class; alone in knowing the frameworks."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from abc import ABCMeta
from collections.abc import Iterable, Mapping

from mmengine.registry import MODELS, Registry

from . import layers
from .classification import ClassificationSwinTransformer, ClassificationSwinTransformerV2
from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2

# A framework's module that registers its own models, beside its registry.
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')

# Names under which a class is registered: the frameworks' own, then one that is ours alone.
NAMES: dict[type, tuple[str, ...]] = {
    SwinTransformer: ('SwinTransformer', 'SwinBackbone'),
    SwinTransformerV2: ('SwinTransformerV2', 'SwinBackboneV2'),
}
# Where a framework defines its own Swin, and the building blocks that have a counterpart here.
THEIR_MODULES: dict[str, tuple[str, ...]] = {
    'mmdet': ('backbones.swin',),
    'mmseg': ('backbones.swin',),
    'mmpretrain': ('backbones.swin_transformer', 'backbones.swin_transformer_v2'),
}
BUILDING_BLOCKS: dict[str, tuple[type, ...]] = {
    'WindowMSA': (layers.WindowMSA,),
    'WindowMSAV2': (layers.WindowMSAV2,),
    'ShiftWindowMSA': (layers.ShiftWindowMSA, layers.ShiftWindowMSAV2),
    'SwinBlock': (layers.SwinBlock,),
    'SwinBlockV2': (layers.SwinBlockV2,),
    'SwinBlockSequence': (layers.SwinBlockSequence,),
    'SwinBlockV2Sequence': (layers.SwinBlockV2Sequence,),
    'FFN': (layers.FFN,),
    'PatchEmbed': (layers.PatchEmbed,),
    'PatchMerging': (layers.PatchMerging,),
}
# What is registered in their place in mmpretrain, whose arguments and defaults are others.
IN_MMPRETRAIN: dict[type, type] = {
    SwinTransformer: ClassificationSwinTransformer,
    SwinTransformerV2: ClassificationSwinTransformerV2,
}


class RegistrationWarning(UserWarning):
    """A framework was left out; the message says which and why."""


def register() -> None:
    """Registers the backbones in mmengine's and in every installed framework's registry.

    A framework's own models are imported first: registered later, they would collide with ours.
    ``isinstance`` of its Swin's classes then holds for ours, too.
    What is not installed, or fails to import, is left out with one warning. Safe to call twice.
    """
    _register_in(MODELS)
    first = _register_in_frameworks(FRAMEWORKS)
    # mmdet imports mmpretrain where it is installed. If that fails, the first import of mmdet may
    # fail and the second succeed: mmengine's own, unless it is ours, would bring mmdet's class.
    skipped = {name: first[name] for name in _register_in_frameworks(first)}
    if skipped:
        reasons = '; '.join(f'{name} ({reason})' for name, reason in skipped.items())
        warnings.warn(
            f'swin_backbone did not register in {reasons}', RegistrationWarning, stacklevel=3
        )


def _register_in_frameworks(frameworks: Iterable[str]) -> dict[str, str]:
    """Registers in frameworks' registries; returns those that are left out, with the reasons."""
    skipped = {}
    for framework in frameworks:
        if importlib.util.find_spec(framework) is None:
            skipped[framework] = 'not installed'
            continue
        try:
            importlib.import_module(f'{framework}.models')
            instead = IN_MMPRETRAIN if framework == 'mmpretrain' else {}
            _register_in(importlib.import_module(f'{framework}.registry').MODELS, instead)
            _pass_for_those_of(framework, instead)
        except Exception as error:  # whatever a broken installation may raise
            skipped[framework] = f'broken: {type(error).__name__}: {error}'
    return skipped


def registered(name: str) -> dict[str, type | None]:
    """The class of a name in mmengine's registry and in every framework's that can be imported."""
    found = {'mmengine': MODELS.get(name)}
    for framework in FRAMEWORKS:
        try:
            found[framework] = importlib.import_module(f'{framework}.registry').MODELS.get(name)
        except Exception:  # whatever a broken installation may raise: register() warns of it
            continue
    return found


def _register_in(registry: Registry, instead: Mapping[type, type] = {}) -> None:
    for backbone, names in NAMES.items():
        module = instead.get(backbone, backbone)
        registry.register_module(name=list(names), force=True, module=module)


def _pass_for_those_of(framework: str, instead: Mapping[type, type]) -> None:
    """Makes our classes virtual subclasses of a framework's classes of the same name."""
    ours = dict(BUILDING_BLOCKS)
    for backbone, (name, *_) in NAMES.items():
        ours[name] = (instead.get(backbone, backbone),)
    for path in THEIR_MODULES[framework]:
        module = importlib.import_module(f'{framework}.models.{path}')
        for name, classes in ours.items():
            theirs = getattr(module, name, None)
            if isinstance(theirs, ABCMeta):
                for one in classes:
                    theirs.register(one)

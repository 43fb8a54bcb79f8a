"""Makes ``type='SwinTransformer'`` mean this package's class; alone in knowing the frameworks."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABCMeta
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.registry import MODELS, Registry
from torch import nn

from . import layers
from .classification import ClassificationSwinTransformer, ClassificationSwinTransformerV2
from .errors import RegistrationWarning
from .startup import FRAMEWORKS, warn_of
from .startup import NAMES as NAMES_OF
from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2

__all__ = [
    'FRAMEWORKS',
    'NAMES',
    'RegistrationWarning',
    'name_constructor_in',
    'register',
    'register_in',
    'register_in_mmengine',
    'registered',
]

# Names under which a class is registered.
NAMES: dict[type, tuple[str, ...]] = {
    backbone: NAMES_OF[backbone.__name__] for backbone in (SwinTransformer, SwinTransformerV2)
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
# Where a framework defines layer-wise decay of the learning rate, and the constructors there. They
# are for other backbones: for a Swin they raise an error without a message.
LAYER_DECAY = 'engine.optimizers.layer_decay_optimizer_constructor'
CONSTRUCTORS: dict[str, tuple[str, ...]] = {
    'mmdet': ('LearningRateDecayOptimizerConstructor',),
    'mmseg': ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor'),
}


def register() -> None:
    """Registers the backbones in mmengine's and in every installed framework's registry, now.

    ``import swin_backbone`` has them registered when a framework is imported; this imports the
    frameworks. Their own models come first: registered later, they would collide with ours.
    ``isinstance`` of its Swin's classes then holds for ours, too.
    A framework that fails to import is left out with a warning. Safe to call twice.
    """
    register_in_mmengine()
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]
    # mmdet imports mmpretrain where it is installed. If that fails, the first import of mmdet may
    # fail and the second succeed.
    _register_in_all(_register_in_all(installed))


def _register_in_all(frameworks: Iterable[str]) -> list[str]:
    """Imports frameworks' models and registers there; returns those that are left out."""
    left_out = []
    for framework in frameworks:
        try:
            importlib.import_module(f'{framework}.models')
        except Exception:  # whatever a broken installation may raise; it has been warned of
            left_out.append(framework)
        else:
            register_in(framework)
    return left_out


def register_in_mmengine() -> None:
    """Registers the backbones in mmengine's own registry, the root of the frameworks'."""
    _register_in(MODELS)


def register_in(framework: str) -> None:
    """Registers the backbones in a framework whose models have been imported.

    What its registry may lack is left out with a warning.
    """
    instead = IN_MMPRETRAIN if framework == 'mmpretrain' else {}
    try:
        _register_in(importlib.import_module(f'{framework}.registry').MODELS, instead)
        _pass_for_those_of(framework, instead)
    except Exception as error:  # whatever a broken installation may raise
        warn_of(framework, error)


def name_constructor_in(framework: str) -> None:
    """Has a framework's constructors for layer-wise decay name ours where they raise for a Swin.

    Their names then mean subclasses in the registry, which differ in that error alone: all other
    backbones get what they got.
    """
    theirs = importlib.import_module(f'{framework}.{LAYER_DECAY}')
    registry = importlib.import_module(f'{framework}.registry').OPTIM_WRAPPER_CONSTRUCTORS
    for name in CONSTRUCTORS[framework]:
        constructor = getattr(theirs, name, None)
        if constructor is not None:
            module = _naming_ours(constructor)
            registry.register_module(name=name, module=module, force=True)


def _naming_ours(constructor: Any) -> type:
    def add_params(self: Any, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        try:
            constructor.add_params(self, params, module, **kwargs)
        except NotImplementedError as error:
            if error.args or not any(
                isinstance(part, SwinTransformer) for part in module.modules()
            ):
                raise
            raise NotImplementedError(
                f'{constructor.__name__} does not know Swin: set optim_wrapper.constructor='
                "'swin_backbone.engine.layer_decay.SwinLayerDecayConstructor', whose paramwise_cfg "
                'needs decay_rate alone'
            ) from error

    own = dict(add_params=add_params, __doc__=constructor.__doc__, __module__=__name__)
    return type(constructor.__name__, (constructor,), own)


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

"""Makes ``type='SwinTransformer'`` mean this package's class in every framework's registry."""

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
from .frameworks import FRAMEWORKS, warn_of
from .frameworks import NAMES as NAMES_OF
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

# The names under which a class is registered.
NAMES: dict[type, tuple[str, ...]] = {
    backbone: NAMES_OF[backbone.__name__] for backbone in (SwinTransformer, SwinTransformerV2)
}
# Where a framework defines its own Swin, and this package's classes for its building blocks.
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
# The classes that are registered in mmpretrain, which has other arguments and defaults.
IN_MMPRETRAIN: dict[type, type] = {
    SwinTransformer: ClassificationSwinTransformer,
    SwinTransformerV2: ClassificationSwinTransformerV2,
}
# Where a framework defines layer-wise learning-rate decay, and its constructors. They are for other
# backbones and raise an error without a message for a Swin.
LAYER_DECAY = 'engine.optimizers.layer_decay_optimizer_constructor'
CONSTRUCTORS: dict[str, tuple[str, ...]] = {
    'mmdet': ('LearningRateDecayOptimizerConstructor',),
    'mmseg': ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor'),
}


def register() -> None:
    """Imports every installed framework and registers the backbones in it and in mmengine.

    ``import swin_backbone`` does this without importing the frameworks, when they are imported.
    The frameworks' own models are registered first; otherwise they would raise for duplicate names.
    This package's classes become virtual subclasses of theirs. A framework that fails to import is
    left out with a warning. Safe to call twice.
    """
    register_in_mmengine()
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]
    # mmdet imports mmpretrain if it is installed. If this fails, the first import of mmdet may fail
    # and the second succeed.
    _register_in_all(_register_in_all(installed))


def _register_in_all(frameworks: Iterable[str]) -> list[str]:
    """Imports frameworks' models and registers in them; returns the frameworks that failed."""
    left_out = []
    for framework in frameworks:
        try:
            importlib.import_module(f'{framework}.models')
        except Exception:  # a broken installation may raise anything; a warning was given
            left_out.append(framework)
        else:
            register_in(framework)
    return left_out


def register_in_mmengine() -> None:
    """Registers the backbones in mmengine's registry, the root of the frameworks' registries."""
    _register_in(MODELS)


def register_in(framework: str) -> None:
    """Registers the backbones in a framework whose models have been imported.

    A failure is a warning.
    """
    instead = IN_MMPRETRAIN if framework == 'mmpretrain' else {}
    try:
        _register_in(importlib.import_module(f'{framework}.registry').MODELS, instead)
        _pass_for_those_of(framework, instead)
    except Exception as error:  # a broken installation may raise anything
        warn_of(framework, error)


def name_constructor_in(framework: str) -> None:
    """Makes a framework's constructors for layer-wise decay name ours in their error for a Swin.

    Registers subclasses under their names, which differ only in this error.
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
                f'{constructor.__name__} does not support Swin: set optim_wrapper.constructor='
                "'swin_backbone.engine.layer_decay.SwinLayerDecayConstructor', whose paramwise_cfg "
                'needs only decay_rate'
            ) from error

    own = dict(add_params=add_params, __doc__=constructor.__doc__, __module__=__name__)
    return type(constructor.__name__, (constructor,), own)


def registered(name: str) -> dict[str, type | None]:
    """The class of a name in the registries of mmengine and each framework that can be imported."""
    found = {'mmengine': MODELS.get(name)}
    for framework in FRAMEWORKS:
        try:
            found[framework] = importlib.import_module(f'{framework}.registry').MODELS.get(name)
        except Exception:  # a broken installation may raise anything; register() warns
            continue
    return found


def _register_in(registry: Registry, instead: Mapping[type, type] = {}) -> None:
    for backbone, names in NAMES.items():
        module = instead.get(backbone, backbone)
        registry.register_module(name=list(names), force=True, module=module)


def _pass_for_those_of(framework: str, instead: Mapping[type, type]) -> None:
    """Makes this package's classes virtual subclasses of a framework's classes of that name."""
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

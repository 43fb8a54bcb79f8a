"""What importing the package sets going: registration, once there is a registry to register in.

Nothing is imported for it that the process does not import itself: whoever imports a framework, or
looks a backbone up in mmengine's registry, finds this package's classes there.
"""

from __future__ import annotations

import functools
import importlib
import runpy
import threading
import warnings
from pathlib import Path
from typing import Any

from .errors import RegistrationWarning
from .imports import is_imported, when_imported

# Frameworks that define a Swin Transformer; `{framework}.models` registers theirs.
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')

# Names under which a class is registered: the frameworks' own, then one that is ours alone.
NAMES: dict[str, tuple[str, ...]] = {
    'SwinTransformer': ('SwinTransformer', 'SwinBackbone'),
    'SwinTransformerV2': ('SwinTransformerV2', 'SwinBackboneV2'),
}

# The frameworks whose import has failed, and those of them that have been warned of.
_failed: set[str] = set()
_warned: set[str] = set()


@functools.cache
def start() -> None:
    """Has everything registered when its time has come; calls after the first do nothing."""
    # Where Python did not run the hook when it started: a folder on PYTHONPATH, for instance. It is
    # found by its path, because importing mmcv_ext imports torch.
    runpy.run_path(str(Path(__file__).with_name('mmcv_ext') / 'startup.py'))
    when_imported('torch', _let_torch_open_checkpoints)
    when_imported('mmengine.registry.root', _register_in_mmengine)
    when_imported('mmengine.runner', _give_mmengine_loaders)
    for framework in FRAMEWORKS:
        warn = functools.partial(warn_of, framework)
        when_imported(framework, failed=warn)
        when_imported(
            f'{framework}.models',
            functools.partial(_register_in, framework),
            failed=warn,
            once_more=functools.partial(_another_is_broken, framework),
        )
    for framework in ('mmdet', 'mmseg'):
        when_imported(
            f'{framework}.engine.optimizers.layer_decay_optimizer_constructor',
            functools.partial(_name_constructor_in, framework),
        )


def warn_of(framework: str, error: Exception) -> None:
    """Warns, once for each framework, that it is broken and nothing is registered there."""
    _failed.add(framework)
    if framework not in _warned:
        _warned.add(framework)
        warnings.warn(
            f'swin_backbone did not register in {framework}, which cannot be imported: '
            f'{type(error).__name__}: {error}',
            RegistrationWarning,
            stacklevel=4,
        )


def _another_is_broken(framework: str, error: Exception) -> bool:
    """Whether a framework's import may succeed the second time.

    mmdet and mmseg import mmpretrain where it is installed. Where that fails with anything but an
    ImportError theirs fails the first time, and does without mmpretrain the second time.
    """
    return bool(_failed - {framework})


def _register_in(framework: str) -> None:
    from .registration import register_in

    register_in(framework)


def _name_constructor_in(framework: str) -> None:
    from .registration import name_constructor_in

    name_constructor_in(framework)


def _register_in_mmengine() -> None:
    from mmengine.registry.root import MODELS

    if is_imported('mmengine'):
        from .registration import register_in_mmengine

        register_in_mmengine()
    else:  # it is being imported, and the backbones need more of it
        MODELS._module_dict = _WithOurs(MODELS._module_dict)


def _let_torch_open_checkpoints() -> None:
    from .weights.safe_globals import allow_mmengine_objects

    allow_mmengine_objects()


def _give_mmengine_loaders() -> None:
    module = importlib.import_module('.weights.safe_load', __package__)
    if is_imported(module.__name__):  # otherwise it is importing mmengine.runner, and calls this
        module.allow_mmengine_checkpoints()


class _WithOurs(dict):
    """mmengine's models by name, which registers the backbones when one of them is asked for."""

    _names = frozenset(name for names in NAMES.values() for name in names)

    def __init__(self, known: dict[str, Any]) -> None:
        super().__init__(known)
        self._missing = True
        self._registering: set[int] = set()  # threads, whose registering ends up here as well

    def _register(self, name: object) -> None:
        thread = threading.get_ident()
        if name not in self._names or not self._missing or thread in self._registering:
            return
        self._registering.add(thread)
        try:
            from .registration import register_in_mmengine

            register_in_mmengine()
            self._missing = False
        finally:
            self._registering.discard(thread)

    def __contains__(self, name: object) -> bool:
        self._register(name)
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self._register(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, module: Any) -> None:
        self._register(name)  # before, so that what is registered last stays
        super().__setitem__(name, module)

    def get(self, name: str, default: Any = None) -> Any:
        self._register(name)
        return super().get(name, default)

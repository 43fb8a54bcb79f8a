"""Registers the backbones when a framework's registry is imported.

Importing the package imports nothing else: a process that imports a framework, or looks a backbone
up in mmengine's registry, finds this package's classes there.
"""

from __future__ import annotations

import functools
import runpy
import warnings
from pathlib import Path

from . import patches
from .errors import RegistrationWarning
from .imports import is_imported, when_imported

# Frameworks that define a Swin Transformer; `{framework}.models` registers theirs.
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')

# The names under which a class is registered: the frameworks' own, and one that is only ours.
NAMES: dict[str, tuple[str, ...]] = {
    'SwinTransformer': ('SwinTransformer', 'SwinBackbone'),
    'SwinTransformerV2': ('SwinTransformerV2', 'SwinBackboneV2'),
}

# Frameworks whose import failed, and those for which a warning was given.
_failed: set[str] = set()
_warned: set[str] = set()


@functools.cache
def start() -> None:
    """Schedules registration and patches for when their targets are imported. Runs once."""
    # Python has run this hook already where the package is installed, but not in a folder on
    # PYTHONPATH. It is run by its path, because importing mmcv_ext imports torch.
    runpy.run_path(str(Path(__file__).with_name('mmcv_ext') / 'startup.py'))
    patches.apply()
    when_imported('mmengine.registry.root', _register_in_mmengine)
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
    """Warns, once per framework, that it cannot be imported and nothing is registered in it."""
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
    """Whether a framework's import may succeed when it is tried again.

    mmdet and mmseg import mmpretrain where it is installed. If that raises anything but an
    ImportError, their import fails the first time and continues without mmpretrain the second time.
    """
    return bool(_failed - {framework})


def _register_in(framework: str) -> None:
    from .registration import register_in

    register_in(framework)


def _name_constructor_in(framework: str) -> None:
    from .registration import name_constructor_in

    name_constructor_in(framework)


def _register_in_mmengine() -> None:
    def register() -> None:
        from .registration import register_in_mmengine

        register_in_mmengine()

    if is_imported('mmengine'):
        register()
    else:  # mmengine is being imported, and the backbones need more of it
        patches.register_on_demand([name for names in NAMES.values() for name in names], register)

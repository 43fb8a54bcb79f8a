"""Registers the backbones when a framework's registry is imported.

Importing the package imports nothing else: a process that imports a framework, or looks a backbone
up in mmengine's registry, finds this package's classes there.
"""

from __future__ import annotations

import functools
import runpy
from pathlib import Path

from . import patches
from .frameworks import FRAMEWORKS, NAMES, another_failed, warn_of
from .imports import is_imported, when_imported


@functools.cache
def start() -> None:
    """Schedules registration and patches for when their targets are imported. Runs once."""
    # Python has run this hook already where the package is installed, but not in a folder on
    # PYTHONPATH. It is run by its path, because importing mmcv_ext imports torch.
    runpy.run_path(str(Path(__file__).with_name('mmcv_ext') / 'startup.py'))
    patches.apply()
    when_imported('mmengine.registry.root', _register_in_root)
    for framework in FRAMEWORKS:
        warn = functools.partial(warn_of, framework)
        when_imported(framework, failed=warn)
        when_imported(
            f'{framework}.models',
            functools.partial(_register_in, framework),
            failed=warn,
            once_more=functools.partial(another_failed, framework),
        )
    for framework in ('mmdet', 'mmseg'):
        when_imported(
            f'{framework}.engine.optimizers.layer_decay_optimizer_constructor',
            functools.partial(_name_constructor_in, framework),
        )


# Each imports `registration` when it is called, because `registration` imports torch and mmengine.
def _register_in(framework: str) -> None:
    from .registration import register_in

    register_in(framework)


def _name_constructor_in(framework: str) -> None:
    from .registration import name_constructor_in

    name_constructor_in(framework)


def _register_in_mmengine() -> None:
    from .registration import register_in_mmengine

    register_in_mmengine()


def _register_in_root() -> None:
    if is_imported('mmengine'):
        _register_in_mmengine()
    else:  # mmengine is being imported, and the backbones need more of it
        names = [name for names in NAMES.values() for name in names]
        patches.register_on_demand(names, _register_in_mmengine)

"""Leaves out of a recipe's log what nobody who runs it can change.

The frameworks warn of their own code: mmengine of a class that it uses itself, mmseg of a function
that it calls itself, both of a library that they import. A warning that means something is easily
missed among them. Importing this module leaves them out: the recipes name it in ``custom_imports``,
the demo imports it; no other run is touched. Each entry is one message of one module.
"""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ..imports import when_imported

# Of setuptools 80.9 and newer, once for each module that imports it.
PKG_RESOURCES = 'pkg_resources is deprecated as an API'
_IMPORT_PKG_RESOURCES = ('importlib', 'mim.commands.list', 'mmengine.utils.package_utils')

# How a warning begins, and which module gives it.
WARNINGS: tuple[tuple[str, str], ...] = (
    *((PKG_RESOURCES, module) for module in _IMPORT_PKG_RESOURCES),
    ('``build_loss`` would be deprecated soon', 'mmseg.models.builder'),
    ('Default ``avg_non_ignore`` is False', 'mmseg.models.losses.cross_entropy_loss'),
    ('The draw is False', 'mmseg.engine.hooks.visualization_hook'),
)
# What mmengine logs as warnings; the metrics are those that the recipes and the test scripts have.
LOGGED: tuple[tuple[str, str], ...] = (
    ('"FileClient" will be deprecated', 'mmengine.fileio.file_client'),
    ('"HardDiskBackend" is the alias', 'mmengine.fileio.file_client'),
    *(
        (f'The prefix is not set in metric class {metric}.', 'mmengine.evaluator.metric')
        for metric in ('DumpDetResults', 'DumpResults', 'IoUMetric')
    ),
)


def ignore_warnings() -> None:
    """Filters the warnings above in this process."""
    for message, module in WARNINGS:
        warnings.filterwarnings(
            'ignore', re.escape(message), UserWarning, module=re.escape(module) + '$'
        )


def python_warnings(before: str = '') -> str:
    """``PYTHONWARNINGS`` for commands that import pkg_resources before they read a config.

    Args:
        before: Its value so far, which goes on to hold, and where it says otherwise is obeyed.
    """
    ours = [f'ignore:{PKG_RESOURCES}:UserWarning:{module}' for module in _IMPORT_PKG_RESOURCES]
    return ','.join([*ours, *filter(None, [before])])


def ignore_logged() -> None:
    """Has mmengine's modules not log the messages above, in this process."""
    for module in sorted({module for _, module in LOGGED}):
        when_imported(module, functools.partial(_replace_print_log, module))


def _replace_print_log(name: str) -> None:
    module: Any = sys.modules[name]
    if not isinstance(module.print_log, _WithoutSome):
        begins = tuple(message for message, where in LOGGED if where == name)
        module.print_log = _WithoutSome(module.print_log, begins)


class _WithoutSome:
    """mmengine's ``print_log``, for all but a few messages."""

    def __init__(self, print_log: Callable, begins: tuple[str, ...]) -> None:
        self.print_log, self.begins = print_log, begins

    def __call__(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if not str(msg).startswith(self.begins):
            self.print_log(msg, *args, **kwargs)


ignore_warnings()
ignore_logged()

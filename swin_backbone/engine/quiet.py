"""Leaves out of a recipe's log what nobody who runs it can change.

The frameworks warn of their own code: mmengine of a class that it uses itself, mmseg of a function
that it calls itself, both of a library that they import. A warning that means something is easily
missed among them. Importing this module leaves them out: the recipes name it in ``custom_imports``,
the demo imports it; no other run is touched. Each entry is one message of one module.
"""

from __future__ import annotations

import re
import warnings

from ..patches import leave_out_logged

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


for _module in sorted({module for _, module in LOGGED}):
    leave_out_logged(_module, tuple(message for message, where in LOGGED if where == _module))
ignore_warnings()

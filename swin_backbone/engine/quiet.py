"""Removes warnings of the frameworks' own code from the log.

mmengine warns of a class that it uses itself, mmseg of a function that it calls itself, both of a
library that they import. Users cannot change these, and miss other warnings among them. Importing
this module removes them: the recipes have it in ``custom_imports``, and the demo imports it. Each
entry is one message of one module.
"""

from __future__ import annotations

import re
import warnings

from ..patches import leave_out_logged

# Given by setuptools 80.9 and newer, once for each importing module.
PKG_RESOURCES = 'pkg_resources is deprecated as an API'
_IMPORT_PKG_RESOURCES = ('importlib', 'mim.commands.list', 'mmengine.utils.package_utils')

# The beginning of a warning, and the module that gives it.
WARNINGS: tuple[tuple[str, str], ...] = (
    *((PKG_RESOURCES, module) for module in _IMPORT_PKG_RESOURCES),
    ('``build_loss`` would be deprecated soon', 'mmseg.models.builder'),
    ('Default ``avg_non_ignore`` is False', 'mmseg.models.losses.cross_entropy_loss'),
    ('The draw is False', 'mmseg.engine.hooks.visualization_hook'),
)
# Messages that mmengine logs; the metrics are those of the recipes and test scripts.
LOGGED: tuple[tuple[str, str], ...] = (
    ('"FileClient" will be deprecated', 'mmengine.fileio.file_client'),
    ('"HardDiskBackend" is the alias', 'mmengine.fileio.file_client'),
    *(
        (f'The prefix is not set in metric class {metric}.', 'mmengine.evaluator.metric')
        for metric in ('DumpDetResults', 'DumpResults', 'IoUMetric')
    ),
)


def ignore_warnings() -> None:
    """Ignores the warnings above in this process."""
    for message, module in WARNINGS:
        warnings.filterwarnings(
            'ignore', re.escape(message), UserWarning, module=re.escape(module) + '$'
        )


def python_warnings(before: str = '') -> str:
    """``PYTHONWARNINGS`` for commands that import pkg_resources before they read a config.

    Args:
        before: The current value, which takes precedence.
    """
    ours = [f'ignore:{PKG_RESOURCES}:UserWarning:{module}' for module in _IMPORT_PKG_RESOURCES]
    return ','.join([*ours, *filter(None, [before])])


for _module in sorted({module for _, module in LOGGED}):
    leave_out_logged(_module, tuple(message for message, where in LOGGED if where == _module))
ignore_warnings()

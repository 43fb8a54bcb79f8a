"""mmcv's compiled operators, which the tests compare this package's with, where there are any.

``load()`` returns the compiled module, whatever ``mmcv._ext`` is in this process; ``load()`` skips
the test where none is found. A compiled mmcv may lie apart from the environment, in its folder
``compiled``, so that mmcv itself is installed without operators.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch  # noqa: F401  Its libraries are what the module is linked against.

# The last part of the name tells Python which function of the library makes the module.
NAME = 'mmcv_compiled._ext'


def folders() -> Iterator[Path]:
    """Where a compiled mmcv may be."""
    yield Path(sys.prefix, 'compiled', 'mmcv')
    spec = find_spec('mmcv')
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder)


@functools.cache
def find() -> ModuleType | None:
    """The compiled module, or None."""
    for folder in folders():
        for suffix in EXTENSION_SUFFIXES:
            path = folder / f'_ext{suffix}'
            if path.exists():
                loader = ExtensionFileLoader(NAME, str(path))
                spec = spec_from_file_location(NAME, path, loader=loader)
                assert spec is not None
                module = module_from_spec(spec)
                loader.exec_module(module)
                return module
    return None


def load() -> ModuleType:
    """The compiled module; skips the test (or the file, at its top level) without one."""
    module = find()
    if module is None:
        looked = ' or '.join(map(str, folders()))
        reason = f"compares with mmcv's compiled operators, and {looked} has no _ext library"
        pytest.skip(reason, allow_module_level=True)
    return module

"""The frameworks' own configs as ``_base_`` of others, on either stack."""

from __future__ import annotations

import importlib
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed


def inherited(framework: str, name: str) -> str:
    """What ``_base_`` says to inherit a framework's config.

    ``framework::name``, where mmengine finds it: it asks for the distribution by OpenMMLab's name,
    which is not the module's for mmseg, and not OneDL's. There, the file by its path.
    """
    if is_installed(MODULE2PACKAGE[framework]):
        return f'{framework}::{name}'
    folder = Path(importlib.import_module(framework).__file__).parent
    return (folder / '.mim/configs' / name).as_posix()

"""mmcv's compiled operators in torch and torchvision, for an mmcv that was not compiled.

``startup.py`` makes this package importable as ``mmcv._ext`` where mmcv has no compiled extension,
so that ``mmcv.ops`` works with ``mmcv-lite``. The functions have the names, the argument order and
the in-place results of the compiled module's, which ``mmcv.ops`` calls. In place of a function that
is not here, one raises NotImplementedError and says how to get it.

The package imports torch alone (and torchvision's compiled operators, if they load), by relative
imports: as ``mmcv._ext`` it must not import ``swin_backbone``, which would register the backbones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ABSENT = (
    "mmcv's operator {name} needs a compiled mmcv: the one installed has no compiled operators, "
    'and swin_backbone does not replace this one. With a C++ compiler: pip uninstall mmcv-lite, '
    'then MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0.'
)


def get_compiler_version() -> str:
    """What mmcv reports as the compiler of its operators."""
    return 'not compiled (swin_backbone.mmcv_ext)'


def get_compiling_cuda_version() -> str:
    """The CUDA version of the operators, which is that of torch."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def absent(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(ABSENT.format(name=name))

    absent.__name__ = absent.__qualname__ = name
    return absent

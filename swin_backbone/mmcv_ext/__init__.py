"""mmcv's compiled operators in torch and torchvision, for an mmcv that was not compiled.

``startup.py`` makes this package importable as ``mmcv._ext`` where mmcv has no compiled extension of
that name, so that ``mmcv.ops`` works with ``mmcv-lite``. The functions have the names, the argument
order and the in-place results of the compiled module's, which ``mmcv.ops`` calls. A function that is
not here is replaced by one that raises NotImplementedError and says how to get it.

The package imports torch alone (and torchvision's compiled operators, if they load), by relative
imports: as ``mmcv._ext`` it must not import ``swin_backbone``, which would register the backbones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .overlaps import bbox_overlaps as bbox_overlaps
from .polygons import box_iou_quadri as box_iou_quadri
from .polygons import nms_quadri as nms_quadri
from .polygons import points_in_polygons_forward as points_in_polygons_forward
from .pooling import roi_pool_backward as roi_pool_backward
from .pooling import roi_pool_forward as roi_pool_forward
from .regions import roi_align_backward as roi_align_backward
from .regions import roi_align_forward as roi_align_forward
from .regions import roi_align_rotated_backward as roi_align_rotated_backward
from .regions import roi_align_rotated_forward as roi_align_rotated_forward
from .rotated import box_iou_rotated as box_iou_rotated
from .rotated import nms_rotated as nms_rotated
from .suppression import nms as nms
from .suppression import nms_match as nms_match
from .suppression import softnms as softnms
from .torchvision_ops import load as _load_torchvision

# Before anything imports torchvision, which may need operators declared.
_load_torchvision()

ABSENT = (
    "mmcv's operator {name} needs a compiled mmcv: this mmcv has no compiled operators, and "
    'swin_backbone does not replace this one. Build mmcv with its operators as its documentation '
    'says (MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0, with a C++ compiler, after '
    'pip uninstall mmcv-lite).'
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

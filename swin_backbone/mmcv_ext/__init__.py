"""mmcv's compiled operators in torch and torchvision, for an mmcv without compiled operators.

``startup.py`` makes this package importable as ``mmcv._ext`` if mmcv has no compiled extension, so
that ``mmcv.ops`` works with ``mmcv-lite``. The functions have the names, argument order and
in-place results of the compiled module's. Functions that are not replaced raise NotImplementedError
with instructions.

The package only imports torch, torchvision's compiled operators if they load, and itself by
relative imports. As ``mmcv._ext`` it must not import ``swin_backbone``, which would register the
backbones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .batch_norm import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)
from .deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .deformable_attention import ms_deform_attn_backward, ms_deform_attn_forward
from .deformable_pooling import deform_roi_pool_backward, deform_roi_pool_forward
from .focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .masks import (
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from .overlaps import bbox_overlaps
from .polygons import box_iou_quadri, nms_quadri, points_in_polygons_forward
from .pooling import roi_pool_backward, roi_pool_forward
from .reassembly import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from .regions import (
    roi_align_backward,
    roi_align_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
)
from .rotated import box_iou_rotated, nms_rotated
from .suppression import nms, nms_match, softnms
from .torchvision_ops import load as _load_torchvision

# Must precede any import of torchvision, which may need declared operators.
_load_torchvision()

__all__ = [
    'bbox_overlaps',
    'box_iou_quadri',
    'box_iou_rotated',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'nms_quadri',
    'nms_rotated',
    'points_in_polygons_forward',
    'psamask_backward',
    'psamask_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_align_rotated_backward',
    'roi_align_rotated_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'sync_bn_backward_data',
    'sync_bn_backward_param',
    'sync_bn_forward_mean',
    'sync_bn_forward_output',
    'sync_bn_forward_var',
]

ABSENT = (
    "mmcv's operator {name} needs a compiled mmcv: the one installed has no compiled operators, "
    'and swin_backbone does not replace this one. With a C++ compiler: pip uninstall mmcv-lite, '
    'then MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0.'
)


def get_compiler_version() -> str:
    """The compiler that mmcv reports for its operators."""
    return 'not compiled (swin_backbone.mmcv_ext)'


def get_compiling_cuda_version() -> str:
    """The CUDA version that mmcv reports for its operators: torch's."""
    return torch.version.cuda or 'not available'


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def absent(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(ABSENT.format(name=name))

    absent.__name__ = absent.__qualname__ = name
    return absent

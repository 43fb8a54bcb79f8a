"""Mixed precision where the device supports it, so that one config works on GPUs and CPUs.

mmengine's ``AmpOptimWrapper`` cannot be built without an accelerator. A config selects this
wrapper by its import path::

    optim_wrapper = dict(type='swin_backbone.engine.amp.amp_where_possible', optimizer=…)
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

# The devices that mmengine's wrapper supports.
AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')


@OPTIM_WRAPPERS.register_module()
def amp_where_possible(
    loss_scale: str | float | dict = 'dynamic',
    dtype: str | None = None,
    use_fsdp: bool = False,
    **kwargs: Any,
) -> OptimWrapper:
    """mmengine's ``AmpOptimWrapper``, or ``OptimWrapper`` if the device has no mixed precision.

    Checkpoints of either resume in the other: a missing loss scale is initialized. Only those of
    bfloat16, whose loss scale is empty, do not resume in float16.

    Args:
        loss_scale: ``'dynamic'`` (for bfloat16: none), a fixed factor, or the arguments of torch's
            ``GradScaler``.
        dtype: The dtype of autocast, ``'float16'`` or ``'bfloat16'``. None selects bfloat16 if the
            device supports it, else float16. bfloat16 has float32's range, which avoids the
            overflows of Swin's larger variants (microsoft/Swin-Transformer#82, #287).
        use_fsdp: Whether the model is wrapped in ``FullyShardedDataParallel``.
        **kwargs: Arguments of ``OptimWrapper``: ``optimizer``, ``clip_grad``,
            ``accumulative_counts``.
    """
    if get_device() in AMP_DEVICES:
        dtype = dtype or best_dtype(get_device())
        if dtype == 'bfloat16' and loss_scale == 'dynamic':
            loss_scale = dict(enabled=False)  # bfloat16 needs no loss scale
        return AmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
    print_log(f'Training in full precision: no AMP on {get_device()}', logger='current')
    return OptimWrapper(**kwargs)


def best_dtype(device: str) -> str | None:
    """``'bfloat16'`` if a CUDA device supports it, else ``'float16'``; None on other devices."""
    if device != 'cuda':
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return 'bfloat16' if native else 'float16'

"""Mixed precision where the machine has it: one config for GPUs and for machines without.

mmengine's ``AmpOptimWrapper`` refuses to be built without an accelerator. A config asks for the
choice by a name that is also its import::

    optim_wrapper = dict(type='swin_backbone.engine.amp.amp_where_possible', optimizer=…)
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

# Where mmengine's wrapper works: its own list.
AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')


@OPTIM_WRAPPERS.register_module()
def amp_where_possible(
    loss_scale: str | float | dict = 'dynamic',
    dtype: str | None = None,
    use_fsdp: bool = False,
    **kwargs: Any,
) -> OptimWrapper:
    """mmengine's ``AmpOptimWrapper``; in full precision where the device has no such thing.

    Checkpoints of either resume in the other: a loss scale that is not there starts afresh. Only
    those of bfloat16, whose loss scale is there and empty, do not resume in float16.

    Args:
        loss_scale: ``'dynamic'`` (for bfloat16: none), a fixed factor, or the arguments of torch's
            ``GradScaler``.
        dtype: What autocast computes in, ``'float16'`` or ``'bfloat16'``; None for bfloat16 where
            the device has it, else float16. bfloat16 has float32's range, and so none of the
            overflows that stop Swin's larger variants (microsoft/Swin-Transformer#82, #287).
        use_fsdp: Whether the model is wrapped in ``FullyShardedDataParallel``.
        **kwargs: What every ``OptimWrapper`` takes: ``optimizer``, ``clip_grad``,
            ``accumulative_counts``.
    """
    if get_device() in AMP_DEVICES:
        dtype = dtype or best_dtype(get_device())
        if dtype == 'bfloat16' and loss_scale == 'dynamic':
            loss_scale = dict(enabled=False)  # its range needs none
        return AmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
    print_log(f'Training in full precision: no AMP on {get_device()}', logger='current')
    return OptimWrapper(**kwargs)


def best_dtype(device: str) -> str | None:
    """``'bfloat16'`` where a device computes in it, else ``'float16'``; None leaves it to torch."""
    if device != 'cuda':
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return 'bfloat16' if native else 'float16'

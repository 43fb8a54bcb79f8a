"""DeepSpeed's ZeRO through mmengine, for unchanged recipes and for CPUs.

``configs/_base_/runtime/deepspeed_zero2.py`` and ``deepspeed_zero3.py`` use it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine._strategy import DeepSpeedStrategy
from mmengine._strategy.deepspeed import DeepSpeedOptimWrapper
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, STRATEGIES
from torch import Tensor, nn

from ..errors import ArgumentError
from ..patches import use_gloo_in_deepspeed
from ..weights.distributed_checkpoints import PLAIN_WEIGHTS

# Options of an optimizer wrapper that DeepSpeed sets itself.
_PRECISION = ('loss_scale', 'dtype', 'use_fsdp')


@OPTIM_WRAPPERS.register_module()
class SteppingDeepSpeedOptimWrapper(DeepSpeedOptimWrapper):
    """mmengine's wrapper with steps under ``no_grad``.

    DeepSpeed 0.18 gathers parameters in place during a step, which torch 2.13 refuses otherwise.
    """

    @torch.no_grad()
    def step(self, **kwargs: Any) -> None:
        """Updates the parameters."""
        super().step(**kwargs)


@STRATEGIES.register_module()
class AnyDeviceDeepSpeedStrategy(DeepSpeedStrategy):
    """mmengine's ``DeepSpeedStrategy``, for unchanged recipes and on any device.

    - A recipe's ``optim_wrapper`` may have any type: ``clip_grad`` and ``accumulative_counts``
      become DeepSpeed's settings; the strategy sets the precision.
    - DeepSpeed's batch size is the data loader's.
    - Without an accelerator, the processes communicate by gloo.
    """

    def _setup_distributed(
        self, launcher: str | None = None, backend: str = 'nccl', **kwargs: Any
    ) -> None:
        if get_device() != 'cpu' or launcher != 'pytorch':
            super()._setup_distributed(launcher, backend, **kwargs)
            return
        import deepspeed

        if 'timeout' in kwargs:
            kwargs['timeout'] = timedelta(seconds=kwargs['timeout'])
        use_gloo_in_deepspeed()
        deepspeed.init_distributed(dist_backend='gloo', **kwargs)

    def build_optim_wrapper(
        self, optim_wrapper: Any, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """As mmengine's, from the config of any optimizer wrapper.

        Raises:
            ArgumentError: It clips gradients by value or another norm, which DeepSpeed cannot.
        """
        if isinstance(optim_wrapper, dict):
            kept = {k: v for k, v in optim_wrapper.items() if k not in _PRECISION}
            clip = dict(kept.pop('clip_grad', None) or {})
            if clip.get('type', 'norm') != 'norm' or clip.get('norm_type', 2) != 2:
                raise ArgumentError(
                    f'optim_wrapper.clip_grad={clip}: DeepSpeed clips only by the 2-norm, as '
                    'clip_grad=dict(max_norm=…) asks for'
                )
            self.config.setdefault('gradient_clipping', float(clip.get('max_norm', 0.0)))
            self.config['gradient_accumulation_steps'] *= kept.pop('accumulative_counts', 1)
            optim_wrapper = dict(kept, type=SteppingDeepSpeedOptimWrapper)
        return super().build_optim_wrapper(optim_wrapper, model)

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True, **kwargs: Any) -> None:
        """As mmengine's, and saves the float32 weights of the plain model in the same folder.

        This package's loaders read these weights and nothing else in the folder.
        """
        super().save_checkpoint(filename, save_optimizer=save_optimizer, **kwargs)
        if not save_optimizer:
            return
        weights = full_weights(self.model.module)
        if self.rank == 0:
            meta = kwargs['extra_ckpt']['meta']
            torch.save(dict(meta=meta, state_dict=weights), Path(filename) / PLAIN_WEIGHTS)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        batch = self.dispatch_kwargs.get('train_micro_batch_size_per_gpu', 1)
        self.config.setdefault('train_micro_batch_size_per_gpu', batch)
        return super()._wrap_model(model)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The full state dict of a ZeRO model, in float32 and on the CPU."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {key: value.detach() for key, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        if full is not None:  # frozen parameters are not sharded
            weights[name] = full.detach()
    return {key: value.cpu() for key, value in weights.items()}

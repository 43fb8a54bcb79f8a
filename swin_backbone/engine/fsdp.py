"""Swin under ``FullyShardedDataParallel``: what is wrapped, and processes without an accelerator.

``configs/_base_/runtime/fsdp.py`` has these in their places.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..layers import SwinBlock, SwinBlockV2


@FUNCTIONS.register_module()
def is_swin_block(module: nn.Module) -> bool:
    """Whether a module is a Swin block, V1's or V2's: what activation checkpointing recomputes."""
    return isinstance(module, SwinBlock | SwinBlockV2)


@FUNCTIONS.register_module()
def wrap_swin_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy``: each Swin block is gathered and freed on its own.

    Args:
        module: The module in question.
        recurse: Whether the question is if to look into it, rather than if to wrap it.
        nonwrapped_numel: Number of its parameters that are not wrapped yet.
    """
    return recurse or is_swin_block(module)


@STRATEGIES.register_module()
class AnyDeviceFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``; without an accelerator its processes talk by gloo.

    With an accelerator, it is mmengine's and nothing else.
    """

    model_wrapper: Any

    def _setup_distributed(
        self, launcher: str = 'pytorch', backend: str = 'nccl', **kwargs: Any
    ) -> None:
        on_cpus = get_device() == 'cpu' and launcher == 'pytorch'
        if not on_cpus or distributed.is_initialized():
            super()._setup_distributed(launcher, backend, **kwargs)
            return
        timeout = kwargs.get('timeout')
        timeout = None if timeout is None else timedelta(seconds=timeout)
        distributed.init_process_group('gloo', timeout=timeout)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu':
            self.model_wrapper = dict(self.model_wrapper or dict(type='MMFullyShardedDataParallel'))
            self.model_wrapper['device_id'] = torch.device('cpu')
            for settings in (self.state_dict_config, self.optim_state_dict_config):
                settings.offload_to_cpu = False  # torch 2.13 frees what it "offloads" from a CPU
        return super()._wrap_model(model)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Loads an optimizer's state; mmengine 0.10 has torch's arguments in an older order."""
        state = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(state)

"""Swin under ``FullyShardedDataParallel``: wrapping, checkpoints and gradient clipping.

``configs/_base_/runtime/fsdp.py`` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy, SingleDeviceStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    StateDictType,
)
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from ..layers import SwinBlock, SwinBlockV2
from ..weights.distributed_checkpoints import SplitTensor, is_rank_folder, join, split


@FUNCTIONS.register_module()
def is_swin_block(module: nn.Module) -> bool:
    """Whether a module is a Swin block (V1 or V2), which activation checkpointing recomputes."""
    return isinstance(module, SwinBlock | SwinBlockV2)


@FUNCTIONS.register_module()
def wrap_swin_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy``: each Swin block is gathered and freed on its own.

    Args:
        module: The module.
        recurse: Whether FSDP asks to visit the module's children; else it asks to wrap the module.
        nonwrapped_numel: The number of its parameters that are not wrapped yet.
    """
    return recurse or is_swin_block(module)


@STRATEGIES.register_module()
class AnyDeviceFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``, on any device, with shards that can be resumed.

    - ``state_dict_cfg='local'``: each process saves its rows of every tensor as plain tensors
      (:mod:`~swin_backbone.weights.distributed_checkpoints`), and reads only its rows. The files
      resume with any number of processes and load into the plain model. mmengine's own contain
      ``ShardedTensor``, which ``torch.load(weights_only=True)`` refuses.
    - ``clip_grad`` of the optimizer wrapper uses the norm over all processes' gradients.
    - Without an accelerator, the processes communicate by gloo.

    With ``'full'`` one process saves everything. Either kind of checkpoint resumes with the other.
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

    def _init_state_dict_cfg(self, state_dict_cfg: str | dict) -> None:
        if state_dict_cfg == 'local':
            state_dict_cfg = dict(
                state_dict_type='SHARDED_STATE_DICT',
                state_dict_config=ShardedStateDictConfig(),
                optim_state_dict_config=ShardedOptimStateDictConfig(),
            )
        super()._init_state_dict_cfg(state_dict_cfg)

    def _sharded(self) -> bool:
        return self.state_dict_type == StateDictType.SHARDED_STATE_DICT

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        wrapper = dict(self.model_wrapper or dict(type='MMFullyShardedDataParallel'))
        if self._sharded():
            # With a mesh, the shards are DTensors, which are created without communication.
            wrapper.setdefault('device_mesh', init_device_mesh(get_device(), (self.world_size,)))
        if get_device() == 'cpu':
            wrapper['device_id'] = torch.device('cpu')
            for settings in (self.state_dict_config, self.optim_state_dict_config):
                settings.offload_to_cpu = False  # torch 2.13 frees what it "offloads" from a CPU
        self.model_wrapper = wrapper
        return super()._wrap_model(model)

    def build_optim_wrapper(
        self,
        optim_wrapper: Optimizer | OptimWrapper | dict,
        model: nn.Module | None = None,
    ) -> BaseOptimWrapper:
        """As mmengine's; clips by the norm of all gradients, not of one shard's."""
        built = super().build_optim_wrapper(optim_wrapper, model)
        if not isinstance(model, FullyShardedDataParallel):
            return built
        for wrapper in built.values() if isinstance(built, OptimWrapperDict) else [built]:
            if getattr(wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
                wrapper.clip_func = partial(clip_shards, model)
        return built

    def save_checkpoint(
        self, filename: str, *, callback: Callable | None = None, **kwargs: Any
    ) -> None:
        """As mmengine's; saves shards as plain tensors."""

        def finish(content: dict) -> None:
            if callback is not None:
                callback(content)
            if self._sharded():
                split(content, self.rank, self.world_size, _local_rows)

        super().save_checkpoint(filename, callback=finish, **kwargs)

    def load_checkpoint(
        self, filename: str, *, callback: Callable | None = None, **kwargs: Any
    ) -> dict:
        """As mmengine's, from a file or a folder of shards, of which it reads only its rows."""
        if not self._sharded() or not is_rank_folder(filename):
            return SingleDeviceStrategy.load_checkpoint(self, filename, callback=callback, **kwargs)
        self.logger.info(f'Load checkpoint from {filename}')
        content = join(filename, self._as_shard, self.rank, self.world_size)
        if callback is not None:
            callback(content)
        self.load_model_state_dict(content.pop('state_dict'))
        return content

    def _as_shard(self, rows: SplitTensor) -> DTensor:
        mesh = self.model_wrapper['device_mesh']
        each = math.ceil(rows.shape[0] / self.world_size)  # as in torch.chunk
        own = rows.read(each * self.rank, each).to(get_device())
        shape = torch.Size(rows.shape)
        stride = torch.empty(shape, device='meta').stride()
        return DTensor.from_local(
            own, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Loads weights: full tensors, or this process's shards."""
        with self._state_dict_type_of(state_dict):
            super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Loads an optimizer's state. mmengine 0.10 passes torch's arguments in an older order."""
        with self._state_dict_type_of(state_dict['state']):
            state = FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
            )
        self.optim_wrapper.load_state_dict(state)

    @contextmanager
    def _state_dict_type_of(self, state: Mapping) -> Iterator[None]:
        """Lets full tensors load where shards are saved."""
        if not self._sharded() or any(isinstance(v, DTensor) for v in _leaves(state)):
            yield
            return
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT):
            yield


def clip_shards(
    model: FullyShardedDataParallel, parameters: Any, max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Replaces ``torch.nn.utils.clip_grad_norm_``, which would use the norm of one shard.

    Args:
        model: The model whose gradients to clip.
        parameters: Unused; matches the signature of ``clip_grad_norm_``.
        max_norm: The largest norm.
        norm_type: The type of the norm.

    Returns:
        The norm of all gradients over all processes.
    """
    return model.clip_grad_norm_(max_norm, norm_type)


def _local_rows(value: Any) -> tuple[Tensor, int, tuple[int, ...]] | None:
    """This process's rows of a sharded tensor, the index of the first one and the full shape."""
    if not isinstance(value, DTensor):
        return None
    first = math.ceil(value.shape[0] / value.device_mesh.size()) * value.device_mesh.get_rank()
    rows = value.to_local().detach().cpu()
    return rows.clone(), min(first, value.shape[0]), tuple(value.shape)


def _leaves(nested: Any) -> Iterator[Any]:
    if isinstance(nested, Mapping):
        for value in nested.values():
            yield from _leaves(value)
    else:
        yield nested

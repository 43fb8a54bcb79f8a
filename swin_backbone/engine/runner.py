"""mmengine's Runner, with distributed runs on machines without an accelerator.

``--launcher pytorch --gpus 2`` starts two processes anywhere, but mmengine 0.10's Runner needs CUDA
in them: its launcher calls ``torch.cuda.set_device`` and its model wrapper moves the model to a
CUDA device. With this Runner, such processes communicate by gloo. A config enables it by an
import::

    custom_imports = dict(imports=['swin_backbone', 'swin_backbone.engine.runner'])

The frameworks' scripts call ``Runner.from_cfg``, and mmseg's test script ignores ``runner_type``.
The import makes this method honour ``runner_type`` (``patches.py``), and build the Runner below if
there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..patches import honour_runner_type


@RUNNERS.register_module()
class AnyDeviceRunner(Runner):
    """mmengine's Runner, whose ``pytorch`` launcher also works on CPUs.

    With an accelerator, or without a launcher, it behaves as mmengine's Runner. On CPUs the
    processes communicate by gloo, whatever ``env_cfg.dist_cfg.backend`` says (``timeout`` applies).
    torch has no synchronized batch norm for CPUs, so it becomes batch norm over each process's
    samples, as in mmengine for one process.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """As mmengine's; on CPUs joins the processes by gloo before."""
        if self._on_cpus() and self._launcher == 'pytorch' and not distributed.is_initialized():
            timeout = env_cfg.get('dist_cfg', {}).get('timeout')
            # The launcher sets address, rank and number of processes in the environment.
            distributed.init_process_group(
                'gloo', timeout=None if timeout is None else timedelta(seconds=timeout)
            )
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As mmengine's; a model on CPUs gets no device ids."""
        if not self._on_cpus() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        if self.cfg.get('sync_bn') or _has_sync_batchnorm(model):
            print_log('Without an accelerator batch norm is not synchronised', logger='current')
            self.cfg.pop('sync_bn', None)
            model = revert_sync_batchnorm(model)
        return super().wrap_model(self._cpu_wrapper(model_wrapper_cfg), model)

    def _on_cpus(self) -> bool:
        return self._distributed and get_device() == 'cpu'

    def _cpu_wrapper(self, model_wrapper_cfg: Mapping[str, Any] | None) -> dict:
        if model_wrapper_cfg is None:  # mmengine's default
            model_wrapper_cfg = dict(
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
        wrapper = dict(type='MMDistributedDataParallel') | dict(model_wrapper_cfg)
        if issubclass(MODEL_WRAPPERS.get(wrapper['type']), DistributedDataParallel):
            wrapper['device_ids'] = None
        return wrapper


def _has_sync_batchnorm(model: nn.Module) -> bool:
    return any(type(module).__name__ == 'SyncBatchNorm' for module in model.modules())


honour_runner_type(AnyDeviceRunner)

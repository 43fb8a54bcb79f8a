"""mmengine's Runner, for distributed runs on machines without an accelerator too.

``--launcher pytorch --gpus 2`` starts two processes anywhere, but mmengine 0.10's Runner stops in
them without CUDA: its launcher calls ``torch.cuda.set_device`` and its model wrapper pins the model
to a CUDA device. The Runner here lets such processes talk by gloo. One import asks for it, in the
config that is trained and tested::

    custom_imports = dict(imports=['swin_backbone', 'swin_backbone.engine.runner'])

The frameworks' scripts build their Runner by ``Runner.from_cfg``, mmseg's test script even where
the config has a ``runner_type``; the import makes that method honour ``runner_type``, and build the
Runner here where there is none.
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
    """mmengine's Runner; its ``pytorch`` launcher works on CPUs as well.

    With an accelerator, or without a launcher, it is mmengine's Runner and nothing else. On CPUs
    the processes of ``--launcher pytorch`` exchange gradients and results by gloo, whatever
    ``env_cfg.dist_cfg.backend`` says (its ``timeout`` holds), and synchronised batch norm, which
    torch has for accelerators alone, becomes batch norm over each process's own samples, as
    mmengine makes it when there is one process.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Joins the processes by gloo, where mmengine would reach for CUDA; then as mmengine."""
        if self._on_cpus() and self._launcher == 'pytorch' and not distributed.is_initialized():
            timeout = env_cfg.get('dist_cfg', {}).get('timeout')
            # The launcher's environment variables hold address, rank and number of processes.
            distributed.init_process_group(
                'gloo', timeout=None if timeout is None else timedelta(seconds=timeout)
            )
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As mmengine's, with a model on CPUs bound to no device."""
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
        if model_wrapper_cfg is None:  # what mmengine does by default
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

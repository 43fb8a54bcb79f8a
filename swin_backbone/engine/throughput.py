"""Images per second in the training log, in addition to mmengine's time and memory."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``images_per_second`` over all processes, including the time to wait for data."""

    # Higher than the logger's, which is BELOW_NORMAL.
    priority = 'NORMAL'

    def before_train_epoch(self, runner: Any) -> None:
        """Starts the clock."""
        self.last = time.perf_counter()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Logs the rate of a batch."""
        images = data_batch.get('inputs') if isinstance(data_batch, dict) else data_batch
        now = time.perf_counter()
        if isinstance(images, Sized):
            rate = len(images) * get_world_size() / (now - self.last)
            runner.message_hub.update_scalar('train/images_per_second', rate)
        self.last = now

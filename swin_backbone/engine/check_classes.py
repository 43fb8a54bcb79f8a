"""Says that a checkpoint classifies other classes than the model, which mmengine would go on with.

Its loader leaves a classifier of another size as it was drawn, with a warning among many lines of
the log: a test then scores at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseModule, BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..errors import CheckpointError
from ..weights import describe


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Holds the classes of a Swin classifier's checkpoint against the model's, before it loads.

    A config asks for it with
    ``custom_hooks=[dict(type='swin_backbone.engine.check_classes.ClassCheckHook')]``.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """mmengine calls it with what ``load_from``, ``--checkpoint`` or ``--resume`` read."""
        check_classes(checkpoint, runner.model)


def check_classes(checkpoint: Mapping[str, Any], model: BaseModule) -> None:
    """Checks that a checkpoint has as many classes as a classifier whose ``head`` has an ``fc``.

    Checkpoints and models without a classifier are passed over: loading has its say on them.

    Raises:
        CheckpointError: It has another number.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    classifier = getattr(getattr(model, 'head', None), 'fc', None)
    try:
        found = describe(checkpoint).num_classes
    except CheckpointError:
        return
    wanted = getattr(classifier, 'out_features', None)
    if None not in (found, wanted) and found != wanted:
        raise CheckpointError(
            f'the checkpoint classifies {found} classes, the model {wanted} (model.head.num_classes'
            '). To fine-tune it, give it to the backbone alone, with model.backbone.init_cfg='
            "dict(type='Pretrained', checkpoint=…), not to load_from; to test it, take one of "
            f'{wanted} classes'
        )

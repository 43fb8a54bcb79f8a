"""Compares the classes of data, model and checkpoint before anything is trained or tested.

The frameworks do not compare them. A detector whose heads are left at 80 classes trains without a
word; one with too few ends in an ``IndexError``, or in a device-side assertion on a GPU; and where
a checkpoint has other classes, mmengine leaves the classifier as it was initialized, with a warning
among many lines of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ..errors import CheckpointError
from ..weights import describe
from .check_checkpoint import check_resumed, check_tested
from .class_counts import unwrapped
from .compare_classes import PHASES, Data, compare


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compares the classes of data, model and checkpoint before a run begins.

    This package's Runners have it as ``default_hooks.classes``; a config leaves it out with
    ``default_hooks=dict(classes=None)``. With another Runner a config asks for it by
    ``custom_hooks=[dict(type='swin_backbone.engine.check_classes.ClassCheckHook')]``.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Compares what the data sets, their annotation files, the evaluators and the model say.

        Raises:
            ArgumentError: They disagree; the message names the options to set.
        """
        for remark in compare(unwrapped(runner.model), runner.cfg, list(_data_of(runner))):
            print_log(remark, 'current', logging.WARNING)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """mmengine calls it with what ``load_from``, ``--checkpoint`` or ``--resume`` read.

        Raises:
            CheckpointError: It does not fit what is to be tested or resumed.
        """
        testing = not isinstance(runner._train_loop, BaseLoop)
        check_classes(checkpoint, runner.model, needed=testing)
        if testing:
            check_tested(checkpoint, runner.model, runner.cfg)
        elif runner._resume:
            check_resumed(checkpoint, runner)


def _data_of(runner: Runner) -> Iterator[Data]:
    """The data of the loops that a Runner has built, which are those that will run."""
    for phase in PHASES:
        loop: Any = getattr(runner, f'_{phase}_loop', None)
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if isinstance(loop, BaseLoop) and dataset is not None:
            yield Data(phase, dataset, getattr(getattr(loop, 'evaluator', None), 'metrics', ()))


def check_classes(checkpoint: Mapping[str, Any], model: BaseModule, needed: bool = False) -> None:
    """Checks that a checkpoint has as many classes as a classifier whose ``head`` has an ``fc``.

    Models without a classifier, and checkpoints of other backbones, are passed over: loading has
    its say on them.

    Args:
        checkpoint: What was read.
        model: The model.
        needed: Whether a checkpoint without a classifier is an error, as it is for a test.

    Raises:
        CheckpointError: It has another number.
    """
    classifier = getattr(getattr(unwrapped(model), 'head', None), 'fc', None)
    wanted = getattr(classifier, 'out_features', None)
    if wanted is None:
        return
    try:
        found = describe(checkpoint).num_classes
    except CheckpointError:
        return
    if found is None and needed:
        raise CheckpointError(
            f'the checkpoint has no classifier, and the model classifies {wanted} classes: the '
            'backbone alone goes to model.backbone.init_cfg, and is to be trained'
        )
    if found is not None and found != wanted:
        raise CheckpointError(
            f'the checkpoint classifies {found} classes, the model {wanted} (model.head.num_classes'
            '). To fine-tune it, give it to the backbone alone, with model.backbone.init_cfg='
            "dict(type='Pretrained', checkpoint=…), not to load_from; to test it, take one of "
            f'{wanted} classes'
        )

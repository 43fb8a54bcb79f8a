"""Compares the classes of data, model, evaluators and checkpoint before a run begins.

The frameworks do not compare them. A detector whose heads still have 80 classes trains without an
error. With too few classes, training ends in an ``IndexError``, or in a device-side assertion on a
GPU. Where a checkpoint has other classes, mmengine leaves the classifier as initialized and logs a
warning.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..errors import ArgumentError, CheckpointError
from ..weights import describe
from .check_annotations import (
    Names,
    check_metric,
    check_names,
    classes_of,
    compare_names,
    inner_datasets,
    label_problems,
    mask_problems,
)
from .check_checkpoint import check_resumed, check_tested
from .class_counts import Classes, Count, counts_of, unwrapped
from .config_text import as_command, as_config

PHASES = ('train', 'val', 'test')
# Label maps and samples that are read before training. A map takes a hundredth of a second.
MAPS, OBJECTS = 3, 20
_LISTED = 6  # the most classes in a message
_COMMAND = 500  # the longest command line to print


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compares the classes of data, model and checkpoint before a run begins.

    This package's Runners have it as ``default_hooks.classes``; a config turns it off with
    ``default_hooks=dict(classes=None)``. With another Runner, a config adds it with
    ``custom_hooks=[dict(type='swin_backbone.engine.check_classes.ClassCheckHook')]``.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Compares data sets, annotation files, evaluators and model.

        Raises:
            ArgumentError: They disagree; the message names the options to set.
        """
        for remark in compare(unwrapped(runner.model), runner.cfg, list(_data_of(runner))):
            print_log(remark, 'current', logging.WARNING)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Checks the checkpoint of ``load_from``, ``--checkpoint`` or ``--resume``.

        Raises:
            CheckpointError: It does not fit the model to test or the run to resume.
        """
        testing = not isinstance(runner._train_loop, BaseLoop)
        check_classes(checkpoint, runner.model, needed=testing)
        if testing:
            check_tested(checkpoint, runner.model, runner.cfg)
        elif runner._resume:
            check_resumed(checkpoint, runner)


def _data_of(runner: Runner) -> Iterator[Data]:
    """The data of the loops that a Runner has built. These are the loops that will run."""
    for phase in PHASES:
        loop: Any = getattr(runner, f'_{phase}_loop', None)
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if isinstance(loop, BaseLoop) and dataset is not None:
            yield Data(phase, dataset, getattr(getattr(loop, 'evaluator', None), 'metrics', ()))


def check_classes(checkpoint: Mapping[str, Any], model: BaseModule, needed: bool = False) -> None:
    """Checks that a checkpoint has as many classes as the model's ``head.fc``.

    Models without a classifier and checkpoints of other backbones are ignored here; loading reports
    them.

    Args:
        checkpoint: The content of the file.
        model: The model.
        needed: Whether a checkpoint without a classifier is an error, as for a test.

    Raises:
        CheckpointError: The numbers differ.
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
            f'the checkpoint has no classifier, and the model classifies {wanted} classes: '
            'load a backbone with model.backbone.init_cfg, and train the model'
        )
    if found is not None and found != wanted:
        raise CheckpointError(
            f'the checkpoint classifies {found} classes, the model {wanted} (model.head.num_classes'
            '). To fine-tune it, load only its backbone, with model.backbone.init_cfg='
            "dict(type='Pretrained', checkpoint=…), not to load_from; to test it, take one of "
            f'{wanted} classes'
        )


@dataclass(frozen=True)
class Data:
    """The data of a phase.

    Attributes:
        phase: One of :data:`PHASES`.
        dataset: The data set.
        metrics: The metrics that evaluate it.
    """

    phase: str
    dataset: Any
    metrics: Sequence[Any] = ()


@dataclass
class Comparison:
    """The result of :func:`comparison`.

    Attributes:
        problems: A text for each error.
        remarks: A text for each thing that is allowed but probably not intended.
        options: The options to set, with their values.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def compare(model: nn.Module, config: Mapping[str, Any], data: Sequence[Data]) -> list[str]:
    """Compares the classes of a config's data with its model's and its evaluators'.

    Returns:
        Remarks on what is allowed but probably not intended.

    Raises:
        ArgumentError: They disagree; the message names the options to set.
    """
    found = comparison(model, config, data)
    if found.problems:
        lines = ['the data and the config disagree:', *explained(found, config)]
        lines.append('if this is intended, default_hooks=dict(classes=None) turns this check off')
        raise ArgumentError('\n'.join(lines))
    return found.remarks


def comparison(
    model: nn.Module | None,
    config: Mapping[str, Any],
    data: Sequence[Data],
    maps: int = MAPS,
    objects: int = OBJECTS,
) -> Comparison:
    """Compares as :func:`compare` does, and returns what it finds.

    Args:
        model: The model without a distributed wrapper; None to check the data only.
        config: The whole config.
        data: The data sets that were built.
        maps: The number of label maps to read, of training data only.
        objects: The number of samples whose objects are checked for masks, of training data only.
    """
    found, names = Comparison(), Names()
    counts = [] if model is None else counts_of(model, config)
    known: dict[str, tuple[Classes, Any]] = {}
    for one in data:
        for option, dataset in inner_datasets(one.dataset, f'{one.phase}_dataloader.dataset'):
            before = len(names.problems)
            check_names(dataset, option, names)
            classes = None if _is_tracked(dataset, one.phase) else classes_of(dataset)
            if classes is not None and len(names.problems) == before:
                known[option] = classes, dataset
            if _is_empty(dataset):
                names.problems.append(_empty_problem(dataset, option))
                continue
            if len(names.problems) == before:
                for i, metric in enumerate(one.metrics):
                    check_metric(metric, _metric(config, one.phase, i), dataset, option, names)
            if one.phase == 'train':
                names.problems += label_problems(dataset, option, counts, maps)
                names.problems += mask_problems(dataset, option, objects)
    compare_names(names, {option: classes for option, (classes, _) in known.items()})
    _compare_counts(found, counts + list(_counts_of_metrics(config, data)), known)
    if config.get('test_evaluator') == config.get('val_evaluator'):
        of_val = {k: v for k, v in found.options.items() if k.startswith('val_evaluator')}
        found.options |= {k.replace('val', 'test', 1): v for k, v in of_val.items()}
    found.problems += names.problems
    found.remarks += names.remarks
    return found


def explained(found: Comparison, config: Mapping[str, Any]) -> Iterator[str]:
    """The problems and how to fix them, in lines."""
    yield from found.problems
    if not found.options:
        return
    written, command = as_config(found.options, config), as_command(found.options)
    if written is not None:
        yield 'in the config:'
        yield from (f'  {line}' for line in written.splitlines())
    if written is None or len(command) <= _COMMAND:
        yield 'on the command line:' if written is None else 'or on the command line:'
        yield f'  {command}'


@contextmanager
def explained_emptiness(config: Mapping[str, Any], phase: str) -> Iterator[None]:
    """Explains an empty data set, where mmengine fails to concatenate no samples.

    Raises:
        ArgumentError: The data set is empty, often because of class names that are not in the
            annotation file.
    """
    try:
        yield
    except ValueError as error:
        settings = (config.get(f'{phase}_dataloader') or {}).get('dataset')
        if 'need at least one array' not in str(error) or not isinstance(settings, Mapping):
            raise
        dataset = DATASETS.build(_not_serialized(settings))
        found = comparison(None, config, [Data(phase, dataset)])
        raise ArgumentError('\n'.join(found.problems) or str(error)) from error


def _not_serialized(settings: Any) -> Any:
    """Settings with ``serialize_data=False``, with which a data set may be empty."""
    if isinstance(settings, list | tuple):
        return [_not_serialized(one) for one in settings]
    inner = [key for key in ('dataset', 'datasets') if settings.get(key) is not None]
    changed = {key: _not_serialized(settings[key]) for key in inner}
    return copy.deepcopy(dict(settings)) | (changed or dict(serialize_data=False))


def _is_tracked(dataset: Any, phase: str) -> bool:
    """Whether it evaluates an mmdet tracker. Such data name more classes than are detected."""
    kinds = [kind.__name__ for kind in type(dataset).__mro__]
    return phase != 'train' and 'BaseVideoDataset' in kinds


def _is_empty(dataset: Any) -> bool:
    return hasattr(dataset, '__len__') and len(dataset) == 0


def _empty_problem(dataset: Any, option: str) -> str:
    suffix = getattr(dataset, 'img_suffix', None)
    hint = f'; it takes files that end in {suffix} (img_suffix)' if suffix else ''
    if getattr(dataset, 'filter_cfg', None):
        hint = f'; filter_cfg={dict(dataset.filter_cfg)} may have left all of them out'
    where = getattr(dataset, 'ann_file', '') or getattr(dataset, 'data_prefix', '')
    return f'{option} has no images: {where}{hint}'


def _metric(config: Mapping[str, Any], phase: str, index: int) -> str:
    """A metric's option in the config."""
    listed = isinstance(config.get(f'{phase}_evaluator'), list | tuple)
    return f'{phase}_evaluator.{index}' if listed else f'{phase}_evaluator'


def _counts_of_metrics(config: Mapping[str, Any], data: Sequence[Data]) -> Iterator[Count]:
    """``topk`` of mmpretrain's ``Accuracy``, which is at most the number of classes."""
    for one in data:
        for i, metric in enumerate(one.metrics):
            if type(metric).__name__ == 'Accuracy' and getattr(metric, 'topk', None):
                option = f'{_metric(config, one.phase, i)}.topk'
                yield Count(option, max(metric.topk), at_most=True)


def _compare_counts(
    found: Comparison, counts: Sequence[Count], known: Mapping[str, tuple[Classes, Any]]
) -> None:
    """Adds the counts that do not fit a data set."""
    wrong = {
        option: [count for count in counts if count.wanted(classes) is not None]
        for option, (classes, _) in known.items()
    }
    fitting = next((option for option in known if not wrong[option]), None)
    reported = set()
    for option, (classes, dataset) in known.items():
        if not wrong[option] or classes in reported:
            continue
        reported.add(classes)
        lines = [f'{option} has {_classes(classes)}, but']
        lines += [f'  {_difference(count, classes)}' for count in wrong[option]]
        found.problems.append('\n'.join([*lines, *_hint(option, classes, dataset, fitting)]))
        if fitting is None:
            for count in wrong[option]:
                found.options.setdefault(count.option, _value(count, classes))


def _hint(option: str, classes: Classes, dataset: Any, fitting: str | None) -> Iterator[str]:
    """Hints that the data's classes may be the option to set."""
    own = getattr(type(dataset), 'METAINFO', None) or {}
    if fitting is not None:
        yield f'  as they are they fit {fitting}: set {option}.metainfo.classes as there'
    elif tuple(own.get('classes') or ()) == classes.names:
        kind = type(dataset).__name__
        yield f'  those are the classes of {kind}: if yours are others, {option}.metainfo.classes'


def _classes(classes: Classes) -> str:
    names = ', '.join(classes.names[:_LISTED]) + (', …' if len(classes.names) > _LISTED else '')
    number = len(classes.names)
    parts = '' if classes.things is None else f', {classes.things} of them things'
    return f'{number} {"class" if number == 1 else "classes"} ({names}){parts}'


def _difference(count: Count, classes: Classes) -> str:
    wanted = count.wanted(classes)
    if count.weights:
        beside = ', one of them for "no object" or background' if max(count.beside) else ''
        return f'{count.option} has {count.value} values, not {wanted}{beside}'
    if count.at_most:
        return f'{count.option} = {count.value}, which may be {wanted} at most'
    return f'{count.option} = {count.value}, not {wanted}'


def _value(count: Count, classes: Classes) -> Any:
    """The value that an option needs."""
    wanted = count.wanted(classes)
    assert wanted is not None
    if not count.weights:
        return 1 if count.at_most else wanted
    beside = max(count.beside) if len(count.beside) == 1 else 0
    first, last = count.weights[0], count.weights[-1]
    return [first] * (wanted - beside) + [last] * beside

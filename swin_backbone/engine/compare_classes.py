"""Whether data, model and evaluators of a config are for the same classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.registry import DATASETS
from torch import nn

from ..errors import ArgumentError
from .annotations import label_problems, mask_problems
from .class_counts import Classes, Count, counts_of
from .class_names import (
    Names,
    classes_of,
    compare_names,
    inner_datasets,
    look_at_metric,
    look_at_names,
)
from .config_text import as_command, as_config

PHASES = ('train', 'val', 'test')
# Looked at before training, where a map takes a hundredth of a second.
MAPS, OBJECTS = 3, 20
_LISTED = 6  # classes in a message
_COMMAND = 500  # characters of a command line that is worth printing


@dataclass(frozen=True)
class Data:
    """The data of a phase.

    Attributes:
        phase: One of :data:`PHASES`.
        dataset: The data set.
        metrics: What evaluates it.
    """

    phase: str
    dataset: Any
    metrics: Sequence[Any] = ()


@dataclass
class Comparison:
    """What came of comparing.

    Attributes:
        problems: What is wrong, a text for each.
        remarks: What is probably not as it was meant.
        options: The options to set, with their values.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def compare(model: nn.Module, config: Mapping[str, Any], data: Sequence[Data]) -> list[str]:
    """Compares the classes of a config's data with its model's and its evaluators'.

    Returns:
        Remarks on what is probably not as it was meant.

    Raises:
        ArgumentError: They disagree; the message names the options to set.
    """
    found = comparison(model, config, data)
    if found.problems:
        lines = ['the data and the config disagree:', *explained(found, config)]
        lines.append('if it is meant so, default_hooks=dict(classes=None) leaves this check out')
        raise ArgumentError('\n'.join(lines))
    return found.remarks


def comparison(
    model: nn.Module | None,
    config: Mapping[str, Any],
    data: Sequence[Data],
    maps: int = MAPS,
    objects: int = OBJECTS,
) -> Comparison:
    """What :func:`compare` finds, as data.

    Args:
        model: Without a distributed wrapper around it; None to look at the data alone.
        config: The whole config.
        data: The data sets that were built.
        maps: How many maps of labels are looked at; of training data alone.
        objects: How many samples' objects are looked at for masks; of training data alone.
    """
    found, names = Comparison(), Names()
    counts = [] if model is None else counts_of(model, config)
    known: dict[str, tuple[Classes, Any]] = {}
    for one in data:
        for option, dataset in inner_datasets(one.dataset, f'{one.phase}_dataloader.dataset'):
            before = len(names.problems)
            look_at_names(dataset, option, names)
            classes = None if _is_tracked(dataset, one.phase) else classes_of(dataset)
            if classes is not None and len(names.problems) == before:
                known[option] = classes, dataset
            if _is_empty(dataset):
                names.problems.append(_nothing(dataset, option))
                continue
            if len(names.problems) == before:
                for i, metric in enumerate(one.metrics):
                    look_at_metric(metric, _metric(config, one.phase, i), dataset, option, names)
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
    """The problems, and what to write against them, in lines."""
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
    """Says why a data set has no images, where mmengine stops at putting none of them together.

    Raises:
        ArgumentError: It has none; a usual reason are class names that the annotation file lacks.
    """
    try:
        yield
    except ValueError as error:
        settings = (config.get(f'{phase}_dataloader') or {}).get('dataset')
        if 'need at least one array' not in str(error) or not isinstance(settings, Mapping):
            raise
        dataset = DATASETS.build(_kept_apart(settings))
        found = comparison(None, config, [Data(phase, dataset)])
        raise ArgumentError('\n'.join(found.problems) or str(error)) from error


def _kept_apart(settings: Any) -> Any:
    """Settings of data sets whose samples stay as they are, so that there may be none."""
    if isinstance(settings, list | tuple):
        return [_kept_apart(one) for one in settings]
    inner = [key for key in ('dataset', 'datasets') if settings.get(key) is not None]
    changed = {key: _kept_apart(settings[key]) for key in inner}
    return copy.deepcopy(dict(settings)) | (changed or dict(serialize_data=False))


def _is_tracked(dataset: Any, phase: str) -> bool:
    """Whether it is mmdet's data to evaluate a tracker, which name more than it is to detect."""
    kinds = [kind.__name__ for kind in type(dataset).__mro__]
    return phase != 'train' and 'BaseVideoDataset' in kinds


def _is_empty(dataset: Any) -> bool:
    return hasattr(dataset, '__len__') and len(dataset) == 0


def _nothing(dataset: Any, option: str) -> str:
    suffix = getattr(dataset, 'img_suffix', None)
    hint = f'; it takes files that end in {suffix} (img_suffix)' if suffix else ''
    if getattr(dataset, 'filter_cfg', None):
        hint = f'; filter_cfg={dict(dataset.filter_cfg)} may have left all of them out'
    where = getattr(dataset, 'ann_file', '') or getattr(dataset, 'data_prefix', '')
    return f'{option} has no images: {where}{hint}'


def _metric(config: Mapping[str, Any], phase: str, index: int) -> str:
    """A metric's place in the config."""
    listed = isinstance(config.get(f'{phase}_evaluator'), list | tuple)
    return f'{phase}_evaluator.{index}' if listed else f'{phase}_evaluator'


def _counts_of_metrics(config: Mapping[str, Any], data: Sequence[Data]) -> Iterator[Count]:
    """mmpretrain's accuracy among the best k, which are no more than there are classes."""
    for one in data:
        for i, metric in enumerate(one.metrics):
            if type(metric).__name__ == 'Accuracy' and getattr(metric, 'topk', None):
                option = f'{_metric(config, one.phase, i)}.topk'
                yield Count(option, max(metric.topk), at_most=True)


def _compare_counts(
    found: Comparison, counts: Sequence[Count], known: Mapping[str, tuple[Classes, Any]]
) -> None:
    """Adds the counts that are not those of a data set."""
    wrong = {
        option: [count for count in counts if count.wanted(classes) is not None]
        for option, (classes, _) in known.items()
    }
    fitting = next((option for option in known if not wrong[option]), None)
    told = set()
    for option, (classes, dataset) in known.items():
        if not wrong[option] or classes in told:
            continue
        told.add(classes)
        lines = [f'{option} has {_classes(classes)}, but']
        lines += [f'  {_difference(count, classes)}' for count in wrong[option]]
        found.problems.append('\n'.join([*lines, *_hint(option, classes, dataset, fitting)]))
        if fitting is None:
            for count in wrong[option]:
                found.options.setdefault(count.option, _value(count, classes))


def _hint(option: str, classes: Classes, dataset: Any, fitting: str | None) -> Iterator[str]:
    """That it may be the data's classes that are to be set."""
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
    """What an option has to be."""
    wanted = count.wanted(classes)
    assert wanted is not None
    if not count.weights:
        return 1 if count.at_most else wanted
    beside = max(count.beside) if len(count.beside) == 1 else 0
    first, last = count.weights[0], count.weights[-1]
    return [first] * (wanted - beside) + [last] * beside

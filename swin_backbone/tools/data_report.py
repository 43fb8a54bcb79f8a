"""The datasets of a config: their contents, and a comparison with the config's model."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from torch import nn

from ..engine.check_annotations import inner_datasets
from ..engine.check_classes import PHASES, Comparison, Data, comparison, explained_emptiness
from ..engine.check_data import check_data
from ..engine.class_counts import counts_of
from ..errors import ArgumentError
from .configs import quietly
from .data_contents import Contents, look_into
from .faults import written_for_former
from .predictor import build, build_on_meta, enter_scope


@dataclass
class Report:
    """The contents of a config's datasets.

    Attributes:
        contents: The contents of each dataset; datasets within wrappers are listed individually.
        datasets: The datasets themselves.
        compared: Disagreements between datasets, annotation files, evaluators and the model.
    """

    contents: list[Contents]
    datasets: list[Any]
    compared: Comparison

    @property
    def problems(self) -> list[str]:
        """A sentence for each problem."""
        return self.compared.problems + [text for one in self.contents for text in one.problems]

    @property
    def remarks(self) -> list[str]:
        """A sentence for each thing that may be unintended."""
        return self.compared.remarks + [text for one in self.contents for text in one.remarks]


@quietly()
def report(
    content: Config, name: str | Path, phases: Iterable[str] = (), images: int = 100
) -> Report:
    """Inspects the datasets of a config and compares them with its model.

    Args:
        content: The config, its bases merged.
        name: What errors call it.
        phases: Some of ``'train'``, ``'val'`` and ``'test'``; empty for all that the config has.
        images: The number of images and label maps to open per dataset. Objects and classes are
            counted over all images.

    Raises:
        FileNotFoundError: A folder or an annotation file does not exist.
        ArgumentError: The config has no datasets, or one of them cannot be built.
    """
    phases = tuple(phases) or _phases(content)
    if not phases:
        former = written_for_former(content)
        raise ArgumentError(
            f'{name} has no data: train_dataloader, val_dataloader, test_dataloader'
            f'{f"; {former}" if former else ""}'
        )
    check_data(content, *phases)
    enter_scope(content.get('default_scope', 'mmengine'))
    data = [_built(content, name, phase) for phase in phases]
    model, why_not = _model(content, name)
    counts = [] if model is None else counts_of(model, content)
    compared = comparison(model, content, data, maps=0, objects=0)
    if why_not:
        compared.remarks.append(f'the data were not compared with the model: {why_not}')
    inner = [
        (option, dataset)
        for one in data
        for option, dataset in inner_datasets(one.dataset, f'{one.phase}_dataloader.dataset')
    ]
    contents = [look_into(option, dataset, counts, images) for option, dataset in inner]
    return Report(contents, [dataset for _, dataset in inner], compared)


def _phases(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The phases with a dataset; ``'test'`` is left out if it uses that of validation."""
    found = {phase: (content.get(f'{phase}_dataloader') or {}).get('dataset') for phase in PHASES}
    if found['test'] == found['val']:
        del found['test']
    return tuple(phase for phase, settings in found.items() if settings)


def _model(content: Config, name: str | Path) -> tuple[nn.Module | None, str]:
    """The config's model as a Runner builds it, or the reason why it cannot be built."""
    content = copy.deepcopy(content)  # constructors modify their arguments
    if isinstance(content.get('model'), Mapping) and content.get('data_preprocessor'):
        content.model.setdefault('data_preprocessor', content.data_preprocessor)
    try:
        return build_on_meta(copy.deepcopy(content), name), ''
    except ArgumentError:  # some constructors need the values of tensors
        try:
            return build(content, name), ''
        except ArgumentError as error:
            return None, str(error)


def _built(content: Config, name: str | Path, phase: str) -> Data:
    """A phase's dataset, and its metrics if they can be built."""
    option = f'{phase}_dataloader.dataset'
    settings = (content.get(f'{phase}_dataloader') or {}).get('dataset')
    if not settings:
        raise ArgumentError(f'{name} has no {option}')
    try:
        # pycocotools prints its progress.
        with explained_emptiness(content, phase), contextlib.redirect_stdout(io.StringIO()):
            dataset = DATASETS.build(copy.deepcopy(settings))
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
    except ArgumentError:
        raise
    except Exception as error:  # a dataset's constructor may raise anything
        said = f'{type(error).__name__}: {error}'
        raise ArgumentError(f'{option} of {name} cannot be built: {said}') from error
    metrics: Sequence[Any] = ()
    evaluator = content.get(f'{phase}_evaluator')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            metrics = Evaluator(copy.deepcopy(evaluator)).metrics if evaluator else ()
    except Exception:  # it may need packages that are not installed
        metrics = ()
    return Data(phase, dataset, metrics)

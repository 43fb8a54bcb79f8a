"""What a few samples of a data set are annotated with, as its pipeline reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .class_counts import Count

_FRAMEWORKS = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')


def transform_with(dataset: Any, flag: str) -> Any:
    """The transform of a data set's pipeline that reads ``'seg'`` or ``'mask'``.

    None if none does, or if one that is not of the frameworks may have made what it reads.
    """
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if getattr(transform, f'with_{flag}', False):
            return transform
        if type(transform).__module__.partition('.')[0] not in _FRAMEWORKS:
            return None
    return None


def spread(number: int, most: int) -> list[int]:
    """At most so many indices of a number of samples, evenly, the first and the last included."""
    return sorted({round(i) for i in np.linspace(0, number - 1, min(number, most))})


def read_label_map(transform: Any, sample: dict) -> np.ndarray | None:
    """The labels of a sample's pixels, (H, W), as training gets them.

    Args:
        transform: That of :func:`transform_with`.
        sample: Of ``dataset.get_data_info``; it is changed.
    """
    transform._load_seg_map(sample)
    return sample.get('gt_seg_map')


def labels_of(labels: np.ndarray) -> dict[int, int]:
    """The number of pixels of each label."""
    if labels.dtype == np.uint8:  # counting is quicker than sorting
        numbers = np.bincount(labels.reshape(-1), minlength=256)
        values = np.flatnonzero(numbers)
        numbers = numbers[values]
    else:
        values, numbers = np.unique(labels, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def beyond(count: Count, labels: Iterable[int]) -> list[int]:
    """The labels that a head of pixels has no class for."""
    classes = max(count.value, 2) if count.one_channel else count.value
    return [i for i in labels if i != count.ignored and not 0 <= i < classes]


def label_problems(dataset: Any, option: str, counts: Sequence[Count], maps: int) -> Iterator[str]:
    """Labels in a few maps that heads of pixels have no class for.

    Args:
        dataset: Without wrappers.
        option: Its place in the config.
        counts: The numbers of classes in the model.
        maps: How many to look at.
    """
    heads = [count for count in counts if count.ignored is not None]
    transform = transform_with(dataset, 'seg') if heads and maps else None
    if transform is None:
        return
    if problem := zero_label_problem(dataset, transform):
        yield f'{option}{problem}'
        return
    for index in spread(len(dataset), maps):
        sample = dataset.get_data_info(index)
        try:
            labels = read_label_map(transform, sample)
        except OSError:  # which the loader has its say on, as it does on images
            return
        if labels is None:
            return
        found = labels_of(labels)
        for head in heads:
            if outside := beyond(head, found):
                yield f'{option}: {label_problem(sample["seg_map_path"], head, outside)}'
                return


def zero_label_problem(dataset: Any, transform: Any) -> str | None:
    """What is wrong where mmseg's data set and pipeline disagree about label 0.

    The text continues the data set's place in the config.
    """
    ours, theirs = getattr(dataset, 'reduce_zero_label', None), transform.reduce_zero_label
    if ours is None or theirs is None or ours == theirs:
        return None
    return (
        f'.reduce_zero_label is {ours}, and LoadAnnotations of its pipeline has {theirs}: True is '
        'for maps with 1 for the first class and 0 for what is ignored, False for 0 for the first'
    )


def label_problem(path: str, head: Count, outside: Sequence[int]) -> str:
    """What is wrong with a map that has labels a head has no class for."""
    named = ', '.join(map(str, outside[:8])) + (', …' if len(outside) > 8 else '')
    return (
        f'pixels of {path} have the label {named}, and {head.option} = {head.value} is for 0 to '
        f'{head.value - 1}, and {head.ignored}, which is ignored'
    )


def mask_problems(dataset: Any, option: str, samples: int) -> Iterator[str]:
    """An object without a mask, where the pipeline reads masks.

    Args:
        dataset: Without wrappers.
        option: Its place in the config.
        samples: How many to look at.
    """
    if transform_with(dataset, 'mask') is None:
        return
    for index in spread(len(dataset), samples):
        sample = dataset.get_data_info(index)
        if any('mask' not in instance for instance in sample.get('instances') or ()):
            yield (
                f'{option}: objects of {sample.get("img_path")} have no segmentation, which '
                'LoadAnnotations(with_mask=True) of its pipeline reads: annotate masks, or take a '
                'config without a mask head and with_mask=False'
            )
            return

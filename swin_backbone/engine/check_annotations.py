"""Checks data sets against their annotations: class names, labels in maps, and masks.

COCO's readers number the names that they find in a file and ignore the others. Labels then mean
other classes than the config says, and the first validation ends in an ``IndexError``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.fileio import load

from .class_counts import Classes, Count
from .data_stream import SeededSamples

# Annotation files up to this size in bytes are read again, in a twentieth of a second.
_SMALL = 4_000_000
_LISTED = 12  # the most names in a message
# The packages whose transforms read annotations as the file has them.
_FRAMEWORKS = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain')


@dataclass
class Names:
    """The results of the checks of class names.

    Attributes:
        problems: A text for each error.
        remarks: A text for each thing that is allowed but probably not intended.
        orders: Class names in the order of a file, by the option that names the file.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)


def inner_datasets(dataset: Any, option: str) -> Iterator[tuple[str, Any]]:
    """The data sets inside wrappers such as ConcatDataset, with their options."""
    if isinstance(dataset, SeededSamples):
        yield from inner_datasets(dataset.dataset, option)
    elif isinstance(several := getattr(dataset, 'datasets', None), Sequence):
        for i, one in enumerate(several):
            yield from inner_datasets(one, f'{option}.datasets.{i}')
    elif hasattr(one := getattr(dataset, 'dataset', None), '__getitem__'):
        yield from inner_datasets(one, f'{option}.dataset')
    else:
        yield option, dataset


def classes_of(dataset: Any) -> Classes | None:
    """The classes of a data set; None if it names none."""
    known = getattr(dataset, 'metainfo', None)
    known = known if isinstance(known, Mapping) else {}
    names = known.get('classes')
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    things, stuff = (
        len(kind) if (kind := known.get(f'{name}_classes')) else None for name in ('thing', 'stuff')
    )
    return Classes(tuple(map(str, names)), things, stuff)


def check_names(dataset: Any, option: str, names: Names) -> None:
    """Compares a data set's classes with its annotation file.

    The file is read again if something is wrong, or if it is small.

    Args:
        dataset: The data set without wrappers.
        option: Its option in the config.
        names: Receives the results.
    """
    known = getattr(dataset, 'metainfo', None)
    if isinstance(known, Mapping) and isinstance(text := known.get('classes'), str):
        names.problems.append(
            f'{option}.metainfo.classes is the text {text!r}; a single class needs a comma: '
            f'classes=({text!r},)'
        )
        return
    classes, ids = classes_of(dataset), getattr(dataset, 'cat_ids', None)
    file = getattr(dataset, 'ann_file', None)
    if classes is None or not isinstance(ids, list) or not hasattr(dataset, 'COCOAPI'):
        return
    fits = len(ids) == len(classes.names)
    if not file or (fits and not _is_small(file)):
        return
    listed = _categories(dataset)
    if not listed and not len(dataset):  # a list of images without annotations
        return
    where = f'{option}.ann_file'
    if not fits:
        names.problems.append(_differences(f'{option}.metainfo.classes', classes, listed, file))
        return
    by_id = {category['id']: str(category['name']) for category in listed}
    names.orders[where] = tuple(by_id.get(i, '') for i in ids)


def check_metric(metric: Any, option: str, dataset: Any, place: str, names: Names) -> None:
    """Compares a data set's classes and images with the file of mmdet's ``CocoMetric``.

    Args:
        metric: The metric.
        option: The metric's option in the config.
        dataset: The data set that it evaluates, without wrappers.
        place: The data set's option.
        names: Receives the results.
    """
    api: Any = getattr(metric, '_coco_api', None)
    classes = classes_of(dataset)
    if classes is None or not hasattr(api, 'get_cat_ids'):
        return
    file = f'{option}.ann_file'
    ids = api.get_cat_ids(cat_names=list(classes.names))
    if len(ids) not in (len(classes.names), classes.things):
        listed = list(api.cats.values())
        names.problems.append(_differences(f'{place}.metainfo.classes', classes, listed, file))
    elif len(ids) == len(classes.names):
        names.orders[file] = tuple(str(api.cats[i]['name']) for i in ids)
    if absent := _absent_images(dataset, api.imgs):
        names.problems.append(
            f'{file} has no image {absent[0]}, which is in the data to evaluate: the data set '
            f'reads another file ({getattr(dataset, "ann_file", "")})'
        )


def compare_names(names: Names, classes: Mapping[str, Classes]) -> None:
    """Compares the class names of data sets with each other and with the orders in files.

    Args:
        names: The orders; receives the results.
        classes: The classes of the data sets, by option.
    """
    orders = {order: option for option, order in names.orders.items()}
    if len({frozenset(order) for order in orders}) < len(orders):
        names.problems.append(
            'the annotation files list their categories in different orders, and classes are '
            'numbered in the order of the file:'
            + ''.join(f'\n  {option}: {_some(order)}' for order, option in orders.items())
        )
        return
    first, *others = classes.items() or [('', Classes(()))]
    for option, known in others:
        if len(known.names) == len(first[1].names) and set(known.names) != set(first[1].names):
            own = [name for name in known.names if name not in first[1].names]
            names.remarks.append(f'{option} has classes that {first[0]} has not: {_some(own)}')
    for option, known in classes.items():
        order = names.orders.get(f'{option}.ann_file')
        if order is not None and order != known.names and set(order) == set(known.names):
            names.remarks.append(
                f'{option}: classes are numbered in the order of the annotation file, which is '
                'not that of metainfo.classes: pictures and predictions would show wrong names; '
                f'write metainfo=dict(classes={_tuple(order)})'
            )


def _is_small(file: str) -> bool:
    try:
        return os.path.getsize(file) <= _SMALL
    except OSError:  # not in the file system
        return False


def _categories(dataset: Any) -> list[Mapping[str, Any]]:
    content = load(dataset.ann_file, backend_args=getattr(dataset, 'backend_args', None))
    return list(content.get('categories') or [])


def _differences(
    option: str, classes: Classes, listed: Sequence[Mapping[str, Any]], file: str
) -> str:
    """The names that are missing in a file, or are in it twice."""
    there = [str(category.get('name')) for category in listed]
    missing = [name for name in classes.names if name not in there]
    if not missing:
        twice = sorted({name for name in there if there.count(name) > 1} & set(classes.names))
        return f'{file} has more than one category of the name {_some(twice)}'
    if not there:
        return f'{file} has no categories, and {option} names {_some(classes.names)}'
    if len(missing) == len(classes.names):
        said = f'none of the classes is in {file}: {_some(missing)}'
        lines = [f'  as they are there: metainfo=dict(classes={_tuple(there)})']
    else:
        said = f'not in {file}: {_some(missing)}'
        lines = [f'  in it are {_some(there)}']
        near = _nearest(missing, there)
        lines += [f'  the nearest to {name!r} is {other!r}' for name, other in near.items()]
    return '\n'.join([f'{option}: {said}', *lines])


def _nearest(names: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """The most similar name in a file, for names that have one."""
    lower = {name.lower(): name for name in there}
    near = {name: difflib.get_close_matches(name.lower(), lower, n=1) for name in names[:_LISTED]}
    return {name: lower[found[0]] for name, found in near.items() if found}


def _tuple(names: Sequence[str]) -> str:
    """Names as a config writes them."""
    shown = ', '.join(map(repr, names[:_LISTED]))
    return f'({shown}{", …" if len(names) > _LISTED else "," if len(names) == 1 else ""})'


def _absent_images(dataset: Any, images: Mapping[Any, Any]) -> list[Any]:
    """Of a data set's first, middle and last image, those that are not in a file."""
    numbers = sorted({0, len(dataset) // 2, max(len(dataset) - 1, 0)}) if len(dataset) else []
    ids = [dataset.get_data_info(i).get('img_id') for i in numbers]
    return [i for i in ids if i is not None and i not in images]


def _some(names: Sequence[str]) -> str:
    more = f', … ({len(names)} in all)' if len(names) > _LISTED else ''
    return ', '.join(map(repr, names[:_LISTED])) + more


def transform_with(dataset: Any, flag: str) -> Any:
    """The transform of a data set's pipeline that reads ``'seg'`` or ``'mask'``.

    None if there is none, if a transform of another package comes before it, or if it reads masks
    and labels from panoptic images, which have ids of segments in place of labels.
    """
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if getattr(transform, f'with_{flag}', False):
            names = {kind.__name__ for kind in type(transform).__mro__}
            return None if 'LoadPanopticAnnotations' in names else transform
        if type(transform).__module__.partition('.')[0] not in _FRAMEWORKS:
            return None
    return None


def spread(number: int, most: int) -> list[int]:
    """At most ``most`` evenly spread indices below ``number``, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, number - 1, min(number, most))})


def read_label_map(transform: Any, sample: dict) -> np.ndarray | None:
    """The labels of a sample's pixels, (H, W), as training gets them.

    Args:
        transform: The result of :func:`transform_with`.
        sample: The result of ``dataset.get_data_info``; it is modified.
    """
    transform._load_seg_map(sample)
    return sample.get('gt_seg_map')


def labels_of(labels: np.ndarray) -> dict[int, int]:
    """The number of pixels of each label."""
    if labels.dtype == np.uint8:  # counting is faster than sorting
        numbers = np.bincount(labels.reshape(-1), minlength=256)
        values = np.flatnonzero(numbers)
        numbers = numbers[values]
    else:
        values, numbers = np.unique(labels, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def beyond(count: Count, labels: Iterable[int]) -> list[int]:
    """The labels for which a segmentation head has no class."""
    classes = max(count.value, 2) if count.one_channel else count.value
    return [i for i in labels if i != count.ignored and not 0 <= i < classes]


def label_problems(dataset: Any, option: str, counts: Sequence[Count], maps: int) -> Iterator[str]:
    """Labels in a few maps for which segmentation heads have no class.

    Args:
        dataset: The data set without wrappers.
        option: Its option in the config.
        counts: The numbers of classes in the model.
        maps: The number of maps to read.
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
        except OSError:  # the loader reports it, as it does for images
            return
        if labels is None:
            return
        found = labels_of(labels)
        for head in heads:
            if outside := beyond(head, found):
                yield f'{option}: {label_problem(sample["seg_map_path"], head, outside)}'
                return


def zero_label_problem(dataset: Any, transform: Any) -> str | None:
    """The error where mmseg's data set and pipeline disagree about label 0.

    The text continues the data set's option.
    """
    ours, theirs = getattr(dataset, 'reduce_zero_label', None), transform.reduce_zero_label
    if ours is None or theirs is None or ours == theirs:
        return None
    return (
        f'.reduce_zero_label is {ours}, and LoadAnnotations of its pipeline has {theirs}: True is '
        'for maps with 1 for the first class and 0 for ignored pixels, False for 0 for the first'
    )


def label_problem(path: str, head: Count, outside: Sequence[int]) -> str:
    """The error for a map with labels for which a head has no class."""
    named = ', '.join(map(str, outside[:8])) + (', …' if len(outside) > 8 else '')
    return (
        f'pixels of {path} have the label {named}, and {head.option} = {head.value} is for 0 to '
        f'{head.value - 1}, and {head.ignored} for ignored pixels'
    )


def mask_problems(dataset: Any, option: str, samples: int) -> Iterator[str]:
    """An object without a mask, where the pipeline reads masks.

    Args:
        dataset: The data set without wrappers.
        option: Its option in the config.
        samples: The number of samples to check.
    """
    if transform_with(dataset, 'mask') is None:
        return
    for index in spread(len(dataset), samples):
        sample = dataset.get_data_info(index)
        if any('mask' not in instance for instance in sample.get('instances') or ()):
            yield (
                f'{option}: objects of {sample.get("img_path")} have no segmentation, which '
                'LoadAnnotations(with_mask=True) of its pipeline reads: annotate masks, or use a '
                'config without a mask head and with_mask=False'
            )
            return

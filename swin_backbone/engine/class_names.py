"""Whether the class names of data sets are those of their annotation files.

COCO's readers number the names that they find in a file and pass over the others: labels then mean
other classes than the config says, and the first validation ends in an ``IndexError``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.fileio import load

from .class_counts import Classes
from .data_stream import SeededSamples

# A file of so many bytes is read a second time in a twentieth of a second.
_SMALL = 4_000_000
_LISTED = 12  # names in a message


@dataclass
class Names:
    """What is found of class names.

    Attributes:
        problems: What is wrong, a text for each.
        remarks: What is right, but probably not what was meant.
        orders: Class names as a file numbers them, by the option that names the file.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)


def inner_datasets(dataset: Any, option: str) -> Iterator[tuple[str, Any]]:
    """The data sets within wrappers such as RepeatDataset and ConcatDataset, and their options."""
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
    """The classes of a data set, None where it names none."""
    known = getattr(dataset, 'metainfo', None)
    known = known if isinstance(known, Mapping) else {}
    names = known.get('classes')
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    things, stuff = (
        len(kind) if (kind := known.get(f'{name}_classes')) else None for name in ('thing', 'stuff')
    )
    return Classes(tuple(map(str, names)), things, stuff)


def look_at_names(dataset: Any, option: str, names: Names) -> None:
    """Compares a data set's classes with its annotation file.

    The file is read again where something is wrong, or where it is small.

    Args:
        dataset: Without wrappers.
        option: Its place in the config.
        names: What is found is added to it.
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


def look_at_metric(metric: Any, option: str, dataset: Any, place: str, names: Names) -> None:
    """Compares a data set's classes and images with the file of mmdet's ``CocoMetric``.

    Args:
        metric: Of an evaluator.
        option: The metric's place in the config.
        dataset: What it evaluates, without wrappers.
        place: The data set's.
        names: What is found is added to it.
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
            f'{file} has no image {absent[0]}, which is in the data that it is to evaluate: it is '
            f'another file than the data set reads ({getattr(dataset, "ann_file", "")})'
        )


def compare_names(names: Names, classes: Mapping[str, Classes]) -> None:
    """Compares the names of data sets with each other, and the orders in which files list them.

    Args:
        names: Has the orders; what is found is added to it.
        classes: Of the data sets, by their places in the config.
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
                'not that of metainfo.classes: pictures and predictions would name wrong classes; '
                f'write metainfo=dict(classes={_tuple(order)})'
            )


def _is_small(file: str) -> bool:
    try:
        return os.path.getsize(file) <= _SMALL
    except OSError:  # it is not in the file system
        return False


def _categories(dataset: Any) -> list[Mapping[str, Any]]:
    content = load(dataset.ann_file, backend_args=getattr(dataset, 'backend_args', None))
    return list(content.get('categories') or [])


def _differences(
    option: str, classes: Classes, listed: Sequence[Mapping[str, Any]], file: str
) -> str:
    """Which names a file does not have, or has twice."""
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
    """The most similar name of a file, for those that have one."""
    lower = {name.lower(): name for name in there}
    near = {name: difflib.get_close_matches(name.lower(), lower, n=1) for name in names[:_LISTED]}
    return {name: lower[found[0]] for name, found in near.items() if found}


def _tuple(names: Sequence[str]) -> str:
    """Names as a config has them."""
    shown = ', '.join(map(repr, names[:_LISTED]))
    return f'({shown}{", …" if len(names) > _LISTED else "," if len(names) == 1 else ""})'


def _absent_images(dataset: Any, images: Mapping[Any, Any]) -> list[Any]:
    """Of the first, the middle and the last image of a data set, those that are not in a file."""
    numbers = sorted({0, len(dataset) // 2, max(len(dataset) - 1, 0)}) if len(dataset) else []
    ids = [dataset.get_data_info(i).get('img_id') for i in numbers]
    return [i for i in ids if i is not None and i not in images]


def _some(names: Sequence[str]) -> str:
    more = f', … ({len(names)} in all)' if len(names) > _LISTED else ''
    return ', '.join(map(repr, names[:_LISTED])) + more

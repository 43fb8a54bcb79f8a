"""What a dataset contains (classes, counts, labels, masks, sizes, modes), and its problems."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import fileio
from PIL import Image

from ..engine.check_annotations import (
    beyond,
    classes_of,
    label_problem,
    labels_of,
    read_label_map,
    spread,
    transform_with,
    zero_label_problem,
)
from ..engine.class_counts import Count

_IGNORED = 255
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF values that swap width and height
_TOLD = 3  # problems of a kind are listed one by one up to this number
_READ_AGAIN = 50_000_000  # bytes: larger annotation files are not read a second time


@dataclass
class Contents:
    """What a dataset contains.

    Attributes:
        option: Its place in the config.
        kind: The name of its class.
        images: The number of its images.
        classes: The names of its classes.
        opened: The number of images that were opened.
        sizes: The number of opened images of each size, (width, height).
        modes: The number of opened images of each of Pillow's modes.
        objects: The number of objects, or of whole images, with each label; over all images.
        images_of: The number of images with each label: over all images, or over those opened if
            pixels are labelled.
        pixels: The number of pixels with each label, over the label maps that were opened.
        with_masks: The number of objects with a mask.
        left_out: The number of annotations of each category that is not among the classes.
        remarks: What may be unintended.
    """

    option: str
    kind: str
    images: int
    classes: tuple[str, ...] = ()
    opened: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    images_of: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    with_masks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    _wrong: dict[str, list[str]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """A sentence for each problem; of many of the same kind, only the first few."""
        shown = []
        for texts in self._wrong.values():
            shown += texts[:_TOLD]
            if len(texts) > _TOLD:
                shown.append(f'{self.option}: and {len(texts) - _TOLD} more like this one')
        return shown

    def wrong(self, kind: str, text: str) -> None:
        """Adds a problem; ``kind`` groups similar ones."""
        between = '' if text.startswith('.') else ': '
        self._wrong.setdefault(kind, []).append(f'{self.option}{between}{text}')

    def name(self, label: int) -> str:
        """The class of a label."""
        if 0 <= label < len(self.classes):
            return self.classes[label]
        return 'ignored' if self.pixels and label == _IGNORED else f'label {label}'


def look_into(option: str, dataset: Any, counts: Sequence[Count], images: int) -> Contents:
    """Inspects a dataset.

    Args:
        option: Its place in the config.
        dataset: The dataset, without wrappers.
        counts: The numbers of classes in the model.
        images: The number of images and label maps to open, evenly spaced.
    """
    known = classes_of(dataset)
    found = Contents(option, type(dataset).__name__, len(dataset))
    found.classes = () if known is None else known.names
    if not hasattr(dataset, 'get_data_info'):
        found.remarks.append(f'{option}: a {found.kind} does not tell what its samples are made of')
        return found
    _count(found, dataset)
    maps = transform_with(dataset, 'seg')
    if maps is not None and (problem := zero_label_problem(dataset, maps)):
        found.wrong('zero', problem)
        maps = None
    for index in spread(len(dataset), images) if len(dataset) else []:
        sample = dataset.get_data_info(index)
        size = _open_image(found, sample, dataset)
        if maps is not None and sample.get('seg_map_path'):
            _open_map(found, sample, dataset, maps, size, counts)
    _judge(found, counts)
    return found


def open_image(path: str, dataset: Any) -> Image.Image:
    """Opens an image of a dataset with the dataset's file backend."""
    backend = getattr(dataset, 'backend_args', None)
    return Image.open(io.BytesIO(fileio.get(path, backend_args=backend)))


def _count(found: Contents, dataset: Any) -> None:
    """Counts annotated objects and classes over all images."""
    needs_masks, bare, first = transform_with(dataset, 'mask') is not None, 0, ''
    for index in range(len(dataset)):
        sample = dataset.get_data_info(index)
        instances = sample.get('instances') or ()
        labels = [i['bbox_label'] for i in instances if isinstance(i.get('bbox_label'), int)]
        labels += _given(sample.get('gt_label'))
        found.objects.update(labels)
        found.images_of.update(set(labels))
        masks = sum('mask' in instance for instance in instances)
        found.with_masks += masks
        if needs_masks and masks < len(instances):
            bare += len(instances) - masks
            first = first or str(sample.get('img_path'))
    if bare:
        found.wrong(
            'masks',
            f'{bare} of {sum(found.objects.values())} objects have no segmentation (in {first}), '
            'which LoadAnnotations(with_mask=True) of its pipeline reads: annotate masks, or take '
            'a config without a mask head and with_mask=False',
        )
    found.left_out = _left_out(dataset, found.classes)


def _given(label: Any) -> list[int]:
    """The labels of an image, from one label or several."""
    if label is None:
        return []
    return [int(i) for i in (label if hasattr(label, '__len__') else [label])]


def _left_out(dataset: Any, classes: Sequence[str]) -> Counter[str]:
    """The number of annotations of each category of a COCO file that is not among the classes."""
    path = Path(str(getattr(dataset, 'ann_file', '')))
    if not hasattr(dataset, 'COCOAPI') or path.suffix != '.json' or not path.is_file():
        return Counter()
    if path.stat().st_size > _READ_AGAIN:
        return Counter()
    content = fileio.load(path)
    names = {c['id']: str(c.get('name')) for c in content.get('categories') or ()}
    numbers = Counter(names.get(a.get('category_id'), '') for a in content.get('annotations') or ())
    return Counter({n: k for n, k in numbers.items() if n and n not in classes})


def _open_image(found: Contents, sample: Mapping[str, Any], dataset: Any) -> tuple[int, int] | None:
    """Decodes an image; returns its width and height after applying its EXIF rotation."""
    path = sample.get('img_path')
    if not isinstance(path, str):
        return None
    found.opened += 1
    try:
        image = open_image(path, dataset)
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, …
        found.wrong('images', f'{path} cannot be read: {error}')
        return None
    turned = image.getexif().get(_ORIENTATION) in _TURNED
    width, height = image.size[::-1] if turned else image.size
    found.sizes[width, height] += 1
    found.modes[image.mode] += 1
    said = sample.get('width'), sample.get('height')
    if None not in said and said != (width, height):
        found.wrong(
            'sizes',
            f'{path} has {width} × {height} pixels, and {said[0]} × {said[1]} in the annotations',
        )
    return width, height


def _open_map(
    found: Contents,
    sample: dict,
    dataset: Any,
    transform: Any,
    size: tuple[int, int] | None,
    counts: Sequence[Count],
) -> None:
    """Counts the labels of a sample's pixels."""
    path = sample['seg_map_path']
    try:
        mode = open_image(path, dataset).mode
        labels = read_label_map(transform, sample)
    except Exception as error:  # as above
        found.wrong('maps', f'{path} cannot be read: {error}')
        return
    if labels is None:
        return
    if labels.ndim != 2:
        found.wrong(
            'channels',
            f'{path} has {labels.shape[-1]} channels ({mode}): a map has one number for each '
            'pixel, the label of its class',
        )
        return
    if mode in ('I', 'F') or mode.startswith('I;'):
        found.wrong('depth', f'{path} is of mode {mode}, and labels are read as 8 bits')
    if size is not None and labels.shape != size[::-1]:
        was = ' × '.join(map(str, labels.shape[::-1]))
        found.wrong('shapes', f'{path} has {was} pixels, its image {size[0]} × {size[1]}')
    here = labels_of(labels)
    found.pixels.update(here)
    if not found.objects:
        found.images_of.update(here.keys())
    for head in counts:
        if head.ignored is not None and (outside := beyond(head, here)):
            found.wrong(head.option, label_problem(path, head, outside))


def _judge(found: Contents, counts: Sequence[Count]) -> None:
    """Finds problems in the totals."""
    labels, heads = set(found.pixels), [c for c in counts if c.ignored is not None]
    if found.pixels and labels == {_IGNORED}:
        found.wrong(
            'binary',
            'all pixels are 255, which is ignored: with reduce_zero_label=True, 0 and 255 become '
            '255; without it, maps of two classes hold 0 and 1',
        )
    elif labels == {0, _IGNORED}:
        found.wrong(
            'binary',
            f'the maps hold 0 and 255 alone, and 255 is ignored: all that can be learned is '
            f'{found.name(0)!r}. Maps of two classes hold 0 and 1',
        )
    outside = sorted(i for i in labels - {_IGNORED} if not 0 <= i < len(found.classes))
    if outside and not heads and not found.objects:
        found.wrong('labels', f'maps hold the labels {outside[:8]}, which are of no class')
    there = found.objects or found.pixels
    missing = [name for i, name in enumerate(found.classes) if there and not there[i]]
    if missing and (found.objects or not heads or heads[0].of == 'classes'):
        among = '' if found.objects else f' in the {found.opened} maps that were opened'
        more = ', …' if len(missing) > 8 else ''
        found.remarks.append(f'{found.option}: nothing{among} is {", ".join(missing[:8])}{more}')

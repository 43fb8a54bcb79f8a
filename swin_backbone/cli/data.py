"""``swin-backbone data``: what a config's datasets contain, and whether they match its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ArgumentError
from .heavy import needs_models
from .output import json_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from ..tools.data_contents import Contents
    from ..tools.data_report import Report

_ROWS = 30  # printed of the table of classes
_NAMED = 4  # up to so many pictures are listed by name


@click.command()
@click.argument('config')
@click.option(
    '--only',
    'phases',
    multiple=True,
    type=click.Choice(['train', 'val', 'test']),
    help='Datasets to inspect; may be repeated.  [default: all of the config]',
)
@click.option(
    '--images',
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help='Number of images and label maps to open per dataset.',
)
@click.option(
    '--pictures',
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help='Number of images per dataset to draw with their annotations.',
)
@click.option(
    *('-o', '--output'),
    type=click.Path(file_okay=False, path_type=Path),
    default='pictures',
    show_default=True,
    help='Folder for the PNG files.',
)
@json_option
@click.pass_context
@needs_models
def data(
    ctx: click.Context,
    config: str,
    phases: tuple[str, ...],
    images: int,
    pictures: int,
    output: Path,
    as_json: bool,
) -> None:
    """Inspect the datasets of CONFIG and compare them with its model.

    Prints the classes with their numbers of objects or pixels, masks, and sizes and modes of the
    images; draws images with their annotations. The exit code is 1 if there is a problem: class
    names that are not in the annotation file, heads for another number of classes, labels out of
    range, label maps of 0 and 255 only, objects without masks, images that cannot be read.
    """
    from ..engine.check_classes import explained
    from ..tools.configs import read
    from ..tools.data_report import report

    content = read(config)
    found = report(content, config, phases, images)
    files, remarks = _draw(found, pictures, output)
    remarks = [*found.remarks, *remarks]
    if as_json:
        print_json(
            {
                'config': config,
                'data': [_facts(one) for one in found.contents],
                'problems': found.problems,
                'remarks': remarks,
                'options': found.compared.options,
                'files': files,
            }
        )
    else:
        for one in found.contents:
            _print(one)
        shown = ', '.join(files) if len(files) <= _NAMED else f'{len(files)} in {output}'
        print_fields({'pictures': shown or None})
        for remark in remarks:
            click.echo(f'note: {remark}')
        wrong = [text for one in found.contents for text in one.problems]
        wrong += explained(found.compared, content)
        click.echo('\n'.join(['wrong:', *wrong]) if wrong else 'nothing is wrong')
    ctx.exit(1 if found.problems else 0)


def _draw(found: Report, pictures: int, output: Path) -> tuple[list[str], list[str]]:
    """Draws samples; returns the files, and the reasons why others were not drawn."""
    from ..engine.check_annotations import spread

    files: list[str] = []
    remarks: list[str] = []
    if not pictures:
        return files, remarks
    try:
        from ..tools.pictures.annotations import draw_sample
    except ArgumentError as error:  # the extra is not installed
        return files, [str(error)]
    output.mkdir(parents=True, exist_ok=True)
    for one, dataset in zip(found.contents, found.datasets, strict=True):
        name = one.option.replace('_dataloader.dataset', '').replace('.', '_')
        for index in spread(len(dataset), pictures) if one.images else []:
            try:
                picture = draw_sample(dataset, index)
            except Exception as error:  # an invalid annotation may raise anything
                said = f'{type(error).__name__}: {error}'
                remarks.append(f'{one.option}: sample {index} cannot be drawn: {said}')
                continue
            files.append(str(output / f'{name}_{index}.png'))
            picture.save(files[-1])
    return files, remarks


def _facts(one: Contents) -> dict[str, Any]:
    """The content of a dataset, for JSON."""
    return {
        'option': one.option,
        'type': one.kind,
        'images': one.images,
        'opened': one.opened,
        'sizes': [[*size, number] for size, number in one.sizes.most_common()],
        'modes': dict(one.modes),
        'classes': list(one.classes),
        'objects': {one.name(i): one.objects[i] for i in sorted(one.objects)},
        'images_of': {one.name(i): one.images_of[i] for i in sorted(one.images_of)},
        'pixels': {str(i): one.pixels[i] for i in sorted(one.pixels)},
        'with_masks': one.with_masks,
        'left_out': dict(one.left_out),
    }


def _print(one: Contents) -> None:
    fields: dict[str, Any] = {'data': one.option, 'type': one.kind, 'images': one.images}
    if one.opened:
        fields |= {'opened': one.opened, 'sizes': _sizes(one), 'modes': dict(one.modes)}
    if one.objects:
        fields['objects'] = f'{sum(one.objects.values())}, {one.with_masks} with a mask'
    if one.left_out:
        fields['left out'] = dict(one.left_out)
    print_fields(fields)
    rows = list(_rows(one))
    title = 'pixels' if one.pixels and not one.objects else 'annotated'
    if rows:
        print_table(('label', 'class', title, 'images'), rows[:_ROWS])
    if len(rows) > _ROWS:
        click.echo(f'and {len(rows) - _ROWS} classes with fewer: --json has all')
    click.echo()


def _sizes(one: Contents) -> str:
    """All sizes, or their range."""
    listed = one.sizes.most_common()
    if len(listed) <= 3:
        return ', '.join(f'{w} × {h}' for (w, h), _ in listed)
    return ' to '.join(f'{w} × {h}' for w, h in (_extreme(listed, min), _extreme(listed, max)))


def _extreme(listed: Sequence[tuple[tuple[int, int], int]], which: Any) -> tuple[int, int]:
    return which((size for size, _ in listed), key=lambda size: size[0] * size[1])


def _rows(one: Contents) -> Iterator[tuple[Any, ...]]:
    """Rows of label, class, number of objects or share of pixels, and number of images.

    If there are too many to print all, the most frequent labels come first.
    """
    of_pixels = bool(one.pixels) and not one.objects
    there = one.pixels if of_pixels else one.objects
    total = sum(there.values())
    labels = sorted({*range(len(one.classes)), *there}) if there else []
    if len(labels) > _ROWS:
        labels.sort(key=lambda label: -there[label])
    for label in labels:
        number = f'{100 * there[label] / total:.2f} %' if of_pixels else there[label]
        yield label, one.name(label), number, one.images_of[label]

"""``swin-backbone weights``: the catalog, downloads, and the content of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CheckpointError
from ..files import replacing
from ..tools.configs import parsed
from ..weights import LAYOUTS
from ..weights.catalog import TASKS, Entry, catalog
from ..weights.download import fetch, target, user_path
from .heavy import needs_models
from .output import json_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from ..weights import Description

prefix_option = click.option('--prefix', help='Selects one of several networks in the file.')
ema_option = click.option(
    '--ema/--no-ema', default=None, help='Use the moving average of the weights, or the weights.'
)


@click.group()
def weights() -> None:
    """List, download, inspect, compare and convert checkpoints.

    FILE is a path, a name in the catalog or an http(s) URL; the last two are downloaded.
    """


@weights.command('list')
@click.argument('words', nargs=-1)
@click.option('--task', type=click.Choice(TASKS))
@click.option('--version', 'version', type=click.Choice(['1', '2']), help='Swin V1 or V2.')
@json_option
def list_(words: tuple[str, ...], task: str | None, version: str | None, as_json: bool) -> None:
    """List the published checkpoints whose entries contain all WORDS."""
    entries = [
        entry
        for entry in catalog().values()
        if task in (None, entry.task)
        and version in (None, str(entry.version))
        and all(_mentions(entry, word.lower()) for word in words)
    ]
    if as_json:
        print_json([{**asdict(e), 'path': str(target(e.name).path)} for e in entries])
        return
    print_table(
        ('name', 'data', 'resolution', 'window', 'published', 'hash', 'here'),
        [
            (
                entry.name,
                entry.data,
                entry.resolution,
                entry.window,
                entry.metrics,
                entry.digest or entry.hash,
                target(entry.name).path.is_file(),
            )
            for entry in entries
        ],
    )
    click.echo(f'{len(entries)} of {len(catalog())} checkpoints')


def _mentions(entry: Entry, word: str) -> bool:
    texts = (entry.name, entry.architecture, entry.data or '', entry.task, entry.publisher)
    return any(word in text.lower() for text in texts)


@weights.command()
@click.argument('file')
@click.option(
    '--config',
    type=click.Path(exists=True, dir_okay=False),
    help='Compare the checkpoint with the backbone of this config.',
)
@prefix_option
@ema_option
@json_option
@click.pass_context
@needs_models
def info(
    ctx: click.Context,
    file: str,
    config: str | None,
    prefix: str | None,
    ema: bool | None,
    as_json: bool,
) -> None:
    """Describe a checkpoint, and what would be resized for a config."""
    from ..weights import describe, read_checkpoint, what_would_be_resized

    checkpoint = read_checkpoint(file)
    description = describe(checkpoint, prefix=prefix, ema=ema)
    entry = _published(file)
    found = asdict(description)
    found['resolution'] = (
        entry.resolution if entry else _resolution(checkpoint, description, prefix, ema)
    )
    if entry:
        found |= {name: getattr(entry, name) for name in ('name', 'data', 'task', 'metrics')}
    resized = problem = None
    if config is not None:
        try:
            resized = what_would_be_resized(description, _backbone(config))
        except CheckpointError as error:
            problem = str(error)
        found |= {'config': config, 'fits': problem is None, 'resized': resized, 'problem': problem}
    if as_json:
        print_json(found)
    else:
        print_fields(_for_people(found))
    ctx.exit(0 if problem is None else 1)


def _published(file: str) -> Entry | None:
    """The catalog's entry for a name, a URL or a file name."""
    name = file.rsplit('/', 1)[-1]
    found = (e for e in catalog().values() if file in (e.name, e.url) or name == e.file_name)
    return next(found, None)


def _resolution(
    checkpoint: Mapping[str, Any],
    description: Description,
    prefix: str | None,
    ema: bool | None,
) -> int | None:
    """Side of the training images in pixels; None if the file does not contain it.

    It follows from a square position embedding, or from the attention masks that the official
    classifiers save, one for each window.
    """
    from torch import Tensor

    from ..weights.state_dicts import find_backbone

    if description.patch_size is None:
        return None
    if description.pretrain_grid is not None:
        return description.pretrain_grid[0] * description.patch_size[0]
    weights = find_backbone(checkpoint, prefix, ema).weights
    masks = (v for k, v in weights.items() if k.endswith('layers.0.blocks.1.attn_mask'))
    mask = next((mask for mask in masks if isinstance(mask, Tensor) and mask.dim() == 3), None)
    if mask is None or description.window_size is None:
        return None
    return math.isqrt(len(mask)) * description.window_size * description.patch_size[0]


def _for_people(found: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in found.items() if value not in (None, '', ())}
    for name in ('positions', 'extra_norm_every_n_blocks'):
        if not shown.get(name):
            shown.pop(name, None)
    if 'parameters' in shown:
        shown['parameters'] = f'{shown["parameters"] / 1e6:.2f} M'
    if found.get('resized') == []:
        shown['resized'] = 'nothing'
    return {name.replace('_', ' '): value for name, value in shown.items()}


def _backbone(config: str) -> Mapping[str, Any]:
    """The arguments of the Swin backbone in a config's model, at any depth."""

    def search(node: Any) -> Mapping[str, Any] | None:
        if not isinstance(node, Mapping):
            return None
        backbone = node.get('backbone')
        if isinstance(backbone, Mapping) and 'Swin' in str(backbone.get('type')):
            return backbone
        return next(filter(None, map(search, node.values())), None)

    found = search(parsed(Path(config), config).get('model'))
    if found is None:
        raise CheckpointError(f'{config} has no model with a Swin backbone')
    return found


@weights.command()
@click.argument('file')
@click.option('--to', required=True, type=click.Choice(LAYOUTS))
@click.option('-o', '--out', required=True, help='File to write: *.safetensors, or for torch.load.')
@click.option(
    '--window', type=click.IntRange(1), help='Resize bias tables (V2: buffers) to this window.'
)
@click.option(
    '--grid', nargs=2, type=int, help='Resize the position embedding to these rows and columns.'
)
@prefix_option
@ema_option
@json_option
@needs_models
def convert(
    file: str,
    to: str,
    out: str,
    window: int | None,
    grid: tuple[int, int] | None,
    prefix: str | None,
    ema: bool | None,
    as_json: bool,
) -> None:
    """Convert a checkpoint's backbone to another layout."""
    from ..weights import convert_file

    done = convert_file(
        file, out, to, window_size=window, pretrain_grid=grid, prefix=prefix, ema=ema
    )
    if as_json:
        print_json({**asdict(done), 'out': out})
        return
    click.echo(f'{out}: {done.tensors} tensors, from {done.source} to {done.to}')
    if done.dropped:
        click.echo(f'left out, as {done.to} has no place for it: {", ".join(done.dropped)}')


@weights.command()
@click.argument('folder', type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument('file', type=click.Path(dir_okay=False, path_type=Path))
@click.option('--weights-only', is_flag=True, help='Leave out the optimizer and the like.')
@needs_models
def join(folder: Path, file: Path, weights_only: bool) -> None:
    """Join a distributed checkpoint, a FOLDER with a file per process, into one FILE."""
    import torch

    from ..weights import read_checkpoint

    content = read_checkpoint(folder)
    if weights_only:
        content = {key: content[key] for key in ('meta', 'state_dict')}
    with replacing(file) as part:
        torch.save(content, part)
    click.echo(f'{file}: {len(content["state_dict"])} tensors')


@weights.command()
@click.argument('names', nargs=-1, required=True)
@json_option
@needs_models
def download(names: tuple[str, ...], as_json: bool) -> None:
    """Download checkpoints, NAMES in the catalog or URLs, and print their paths."""
    paths = {name: str(fetch(name)) for name in names}
    if as_json:
        print_json(paths)
    else:
        click.echo('\n'.join(paths.values()))


@weights.command()
@click.argument('a')
@click.argument('b')
@click.option('--tolerance', default=0.0, show_default=True, help='Allowed absolute difference.')
@prefix_option
@json_option
@click.pass_context
@needs_models
def diff(
    ctx: click.Context, a: str, b: str, tolerance: float, prefix: str | None, as_json: bool
) -> None:
    """Compare the backbones of two checkpoints, of any layout; exit with 1 if they differ."""
    from ..weights import read_checkpoint
    from ..weights.compare import compare

    found = compare(read_checkpoint(a), read_checkpoint(b), tolerance=tolerance, prefix=prefix)
    if as_json:
        print_json({**asdict(found), 'same': found.same})
    else:
        rows = [
            *(
                (key, f'{file}: not there')
                for file, keys in ((b, found.only_a), (a, found.only_b))
                for key in keys
            ),
            *((key, f'shapes {left} and {right}') for key, (left, right) in found.shapes.items()),
            *((key, f'by up to {value:.3g}') for key, value in found.values.items()),
        ]
        if rows:
            print_table(('weight', 'differs'), rows)
        click.echo(
            f'{found.compared} weights compared ({found.layout_a} and {found.layout_b}), '
            f'{len(rows)} differ'
        )
    ctx.exit(0 if found.same else 1)


@weights.command()
@click.argument('file')
@json_option
@click.pass_context
@needs_models
def verify(ctx: click.Context, file: str, as_json: bool) -> None:
    """Check a file's hash, format, layout and numbers; exit with 1 if there is a problem."""
    from ..weights.verify import verify as verify_file

    path = _local(file)
    checks = verify_file(path)
    wrong = any(check.passed is False for check in checks)
    if as_json:
        print_json({'path': str(path), 'passed': not wrong, 'checks': [asdict(c) for c in checks]})
    else:
        words = {True: 'passed', False: 'FAILED', None: 'unknown'}
        print_table(
            ('check', 'result', 'detail'), [(c.name, words[c.passed], c.detail) for c in checks]
        )
    ctx.exit(1 if wrong else 0)


def _local(file: str) -> Path:
    """The path of a file or of a name in the catalog; nothing is downloaded."""
    path = user_path(file)
    if not path.exists() and file in catalog():
        path = target(file).path
    if not path.is_file():
        raise FileNotFoundError(f'no file at {path}')
    return path

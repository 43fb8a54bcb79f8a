"""``swin-backbone complexity``: parameters and FLOPs of a config's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .heavy import needs_models
from .output import json_option, print_json, print_table

if TYPE_CHECKING:
    from ..tools.complexity import Complexity, Part


@click.command()
@click.argument('config')
@click.option(
    '--shape',
    nargs=3,
    type=click.IntRange(1),
    metavar='C H W',
    help='Shape of the image. Default: 3 800 1280 for detectors; the height and four times the '
    'width of the crop for segmentors; the crop of the test pipeline for classifiers.',
)
@json_option
@needs_models
def complexity(config: str, shape: tuple[int, int, int] | None, as_json: bool) -> None:
    """Count parameters and FLOPs of a config's model, part by part.

    CONFIG is a path or the name of a shipped config. As in the papers, a multiply-add counts as one
    FLOP, detectors have 1000 boxes and 100 masks per stage, and heads used only in training are
    left out. "executed" excludes projections of padded tokens, which the official code computes.
    """
    from ..tools.complexity import complexity as count
    from ..tools.complexity import default_shape
    from ..tools.configs import read
    from ..tools.predictor import build_on_meta

    content = read(config)
    model = build_on_meta(content, config)
    found = count(model, shape or default_shape(content))
    if as_json:
        print_json({'config': config, **found.as_dict()})
    else:
        _print(found)


def _print(found: Complexity) -> None:
    rows = [_row(part.name, part) for part in found.parts]
    print_table(
        ('part', 'parameters', 'FLOPs', 'executed'), [*rows, _row('the whole model', found)]
    )
    click.echo(f'one image of {" × ".join(map(str, found.shape))}, a multiply-add counted once')
    if found.not_counted:
        click.echo('not counted, as they do not run on features alone: ', nl=False)
        click.echo(', '.join(found.not_counted))


def _row(name: str, counted: Part | Complexity) -> tuple[str, ...]:
    return (
        name,
        f'{counted.params / 1e6:.2f} M',
        f'{counted.flops / 1e9:.2f} G',
        f'{counted.flops_executed / 1e9:.2f} G',
    )

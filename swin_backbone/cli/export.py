"""``swin-backbone export``: a model as a file that runs without this package."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from ..tools.configs import located
from .heavy import needs_models
from .output import json_option, print_fields, print_json, print_table

# Larger differences are an error. Summing float32 in another order gives less than 1e-4.
TOLERANCE = 1e-3


@click.command()
@click.argument('config')
@click.argument('checkpoint')
@click.option('--to', required=True, type=click.Choice(['onnx', 'torch-export']))
@click.option('--dynamic', is_flag=True, help='Accept any batch size, height and width.')
@click.option(
    *('-o', '--output'),
    help='File to write, *.onnx or *.pt2.  [default: named after the config]',
)
@click.option(
    '--part',
    type=click.Choice(['backbone', 'model']),
    default='backbone',
    show_default=True,
    help='"model": a segmentor up to its logits, a detector up to the scores of its proposals.',
)
@click.option(
    '--size',
    nargs=2,
    type=click.IntRange(1),
    default=(224, 224),
    show_default=True,
    help='Height and width of the input, unless --dynamic.',
)
@click.option(
    '--batch',
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help='Batch size of the input, unless --dynamic.',
)
@click.option('--class-map', is_flag=True, help='Output classes instead of logits (segmentors).')
@click.option('--int8', is_flag=True, help='Also write *.int8.onnx, with int8 weights.')
@json_option
@click.pass_context
@needs_models
def export(
    ctx: click.Context,
    config: str,
    checkpoint: str,
    to: str,
    dynamic: bool,
    output: str | None,
    part: str,
    size: tuple[int, int],
    batch: int,
    class_map: bool,
    int8: bool,
    as_json: bool,
) -> None:
    """Export the model of CONFIG with the weights of CHECKPOINT, and check the result.

    CONFIG is a path or the name of a shipped config; CHECKPOINT is a path, a name in the catalog or
    an http(s) URL. The check runs the file on random input and compares the outputs with PyTorch's;
    the exit code is 1 if they differ by more than 0.001.
    """
    from ..tools.export import check_file
    from ..tools.export import export as write
    from ..tools.export.check import shapes_to_check
    from ..tools.export.formats import SUFFIXES
    from ..tools.export.parts import load_part

    start = time.perf_counter()
    file = located(config)
    path = Path(output or file.with_suffix(SUFFIXES[to]).name)
    chosen = load_part(file, checkpoint, part, class_map)
    exported = write(chosen, path, to, dynamic=dynamic, batch=batch, size=size, int8=int8)
    seconds = time.perf_counter() - start
    shapes = shapes_to_check(exported, chosen, batch, size)
    checks = check_file(exported.path, chosen, shapes)
    rounded = check_file(exported.quantised, chosen, shapes) if exported.quantised else []
    passed = all(check.difference <= TOLERANCE for check in checks)

    files = [str(f) for f in (exported.path, exported.quantised) if f]
    if as_json:
        print_json(
            {
                **{'files': files, 'seconds': seconds, 'passed': passed},
                **{'outputs': chosen.outputs, 'metadata': exported.metadata},
                **{'checks': [asdict(c) for c in checks], 'int8': [asdict(c) for c in rounded]},
            }
        )
    else:
        sizes = {f: f'{Path(f).stat().st_size / 2**20:.1f} MiB' for f in files}
        print_fields({**sizes, 'outputs': chosen.outputs, **exported.metadata})
        rows = [(*check.shape, f'{check.difference:.2g}', '') for check in checks]
        rows += [(*check.shape, f'{check.difference:.2g}', 'int8') for check in rounded]
        print_table(('batch', 'height', 'width', 'difference from PyTorch', ''), rows)
        click.echo(f'{"the same" if passed else "NOT the same"} as PyTorch; {seconds:.0f} s')
    ctx.exit(0 if passed else 1)

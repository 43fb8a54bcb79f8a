"""``swin-backbone plot``: curves of training logs."""

from __future__ import annotations

from pathlib import Path

import click

from .heavy import needs_models
from .output import json_option, print_fields, print_json


@click.command()
@click.argument('logs', nargs=-1, required=True)
@click.option(
    *('-o', '--output'),
    type=click.Path(file_okay=False, path_type=Path),
    default='pictures',
    show_default=True,
    help='Folder for the PNG file, curves.png.',
)
@click.option(
    '--html',
    type=click.Path(dir_okay=False, path_type=Path),
    help='Also write a report, as a single HTML file.',
)
@json_option
@needs_models
def plot(logs: tuple[str, ...], output: Path, html: Path | None, as_json: bool) -> None:
    """Plot the curves of the training LOGS of one or several runs.

    A log is the work folder of a run, or a file in it that mmengine wrote: vis_data/scalars.json or
    *.log. Plots whatever is logged: the loss and its parts, box and mask AP, mIoU, throughput,
    memory, times, the learning rate. Several runs share the axes.
    """
    from ..tools.pictures.curves import draw_curves, last_values, read_runs
    from ..tools.pictures.report import plot_report
    from ..tools.pictures.show import png_of

    runs = read_runs(logs)
    png = png_of(draw_curves(runs))
    output.mkdir(parents=True, exist_ok=True)
    file = output / 'curves.png'
    file.write_bytes(png)
    files = {'curves': str(file)}
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(plot_report(runs, png))
        files['report'] = str(html)
    if as_json:
        print_json({'runs': {run.name: last_values(run) for run in runs}, 'files': files})
        return
    print_fields(files)

"""``swin-backbone serve``: a local web page that shows a model's predictions."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from ..errors import ArgumentError
from .heavy import needs_models


@click.command()
@click.option('--config', required=True, help='A path or the name of a shipped config.')
@click.option(
    '--weights', required=True, help="The whole model's: a path, a name in the catalog or a URL."
)
@click.option('--host', default='127.0.0.1', show_default=True, help='Address to listen on.')
@click.option(
    '--port',
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help='0 selects a free one.',
)
@click.option('--device', default='cpu', show_default=True, help='Device of the model.')
@click.option(
    '--max-upload',
    type=click.FloatRange(0, min_open=True),
    default=20,
    show_default=True,
    metavar='MIB',
    help='Limit of the size of a file, in MiB.',
)
@click.option('--open', 'open_page', is_flag=True, help='Open the page in a browser.')
@needs_models
def serve(
    config: str,
    weights: str,
    host: str,
    port: int,
    device: str,
    max_upload: float,
    open_page: bool,
) -> None:
    """Serve a page that shows a model's boxes, masks, segments or classes of an image.

    By default, only this machine can reach it; see --host. Ctrl-C stops it.
    """
    from ..tools.predictor import Predictor, usable_device

    try:
        from ..tools import page
    except ImportError as error:
        raise ArgumentError(
            f"the page needs {error.name} ({error}): pip install 'swin_backbone[page]'"
        ) from error

    usable_device(device, f'--device {device}')  # before the model is built
    with page.listen(host, port) as listening:  # fails before the model is built, which is slow
        predictor = Predictor(config, weights, device)
        app = page.application(
            predictor,
            title=Path(config).stem,
            device=device,
            host=host,
            max_upload=int(max_upload * 2**20),
        )
        url = page.url_of(listening, host)
        if not page.is_loopback(listening):
            click.echo(f'Warning: other machines that reach {host} can use it, too', err=True)
        click.echo(f'{Path(config).stem} ({predictor.task}) is served at {url}; Ctrl-C stops it')
        if open_page:
            webbrowser.open(url)
        try:
            page.serve(app, listening)
        except KeyboardInterrupt:
            click.echo('stopped')

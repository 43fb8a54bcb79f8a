"""``swin-backbone show``: pictures of what a model sees in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .heavy import needs_models
from .output import json_option, print_fields, print_json


@click.command()
@click.argument('image', default='astronaut')
@click.option('--config', help='A path or the name of a shipped config.')
@click.option(
    '--weights', help="The model's or its backbone's: a path, a name in the catalog or a URL."
)
@click.option(
    '--what',
    type=click.Choice(['prediction', 'features', 'attention', 'rollout', 'cam', 'all']),
    default='all',
    show_default=True,
    help='What to draw; "all" includes cam only with --cam.',
)
@click.option(
    '--point',
    nargs=2,
    type=float,
    metavar='X Y',
    help='The query of attention and rollout, in pixels of the image.  [default: the center]',
)
@click.option(
    '--stage',
    type=click.IntRange(0),
    help='The stage of attention, rollout and --cam.  '
    '[default: the last but one; the last for --cam]',
)
@click.option(
    '--block',
    type=click.IntRange(0),
    help='The block of the stage; drawn together with the other block of its pair of regular and '
    'shifted windows.  [default: the last]',
)
@click.option(
    '--score',
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help='Draw boxes with at least this score.',
)
@click.option(
    '--cam',
    metavar='TARGET',
    help='Also draw a class activation map of TARGET: the name of a class (of a detector, its best '
    'box), or a rank from 0 on: boxes and classes by score, classes of a segmentor by area.',
)
@click.option(
    '--cam-method',
    type=click.Choice(['grad-cam', 'grad-cam++', 'hirescam', 'layer-cam', 'xgrad-cam']),
    default='grad-cam',
    show_default=True,
    help='All but grad-cam need the extra "cam".',
)
@click.option(
    *('-o', '--output'),
    type=click.Path(file_okay=False, path_type=Path),
    default='pictures',
    show_default=True,
    help='Folder for the PNG files.',
)
@click.option(
    '--html',
    type=click.Path(dir_okay=False, path_type=Path),
    help='Also write a report, as a single HTML file: a click shows the attention of any point.',
)
@click.option('--device', default='cpu', show_default=True, help='Device of the model.')
@json_option
@needs_models
def show(
    image: str,
    config: str | None,
    weights: str | None,
    what: str,
    point: tuple[float, float] | None,
    stage: int | None,
    block: int | None,
    score: float,
    cam: str | None,
    cam_method: str,
    output: Path,
    html: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Draw what a model sees in IMAGE: its prediction, features and attention.

    IMAGE is a path or one of scikit-image's images: astronaut, camera, chelsea, coffee, coins or
    rocket. Without --config, the model is the backbone that the weights belong to. Without both, it
    is a Swin-T with the weights swin_tiny_in1k, if they are downloaded, or else with random
    weights, which the pictures point out.
    """
    from ..tools.images import read_image
    from ..tools.pictures.report import show_report
    from ..tools.pictures.show import look
    from ..tools.pictures.subject import load_subject

    pixels = read_image(image)
    subject = load_subject(config, weights, device)
    pictures = look(
        pixels,
        subject,
        what,
        point=point,
        stage=stage,
        block=block,
        score=score,
        cam=cam,
        cam_method=cam_method,
        everywhere=html is not None,
    )
    output.mkdir(parents=True, exist_ok=True)
    files = {name: output / f'{name}.png' for name in pictures.png}
    for name, file in files.items():
        file.write_bytes(pictures.png[name])
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(show_report(Path(image).name, pixels, subject, pictures))
        files['report'] = html
    if as_json:
        found: dict[str, Any] = dict(image=image, size=pixels.shape[1::-1], model=subject.name)
        found |= dict(weights=None if subject.random else subject.weights, **pictures.facts)
        print_json(
            {**found, 'missing': pictures.missing, 'files': {k: str(f) for k, f in files.items()}}
        )
        return
    print_fields({'model': subject.name, 'weights': subject.weights, **files})
    for name, reason in pictures.missing.items():
        click.echo(f'no {name}: {reason}')
    if subject.random and config is None:
        click.echo('trained weights: `swin-backbone weights download swin_tiny_in1k`')

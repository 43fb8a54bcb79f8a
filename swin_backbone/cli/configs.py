"""``swin-backbone configs``: the configs of the package."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ArgumentError
from ..tools.configs import find, read, shipped, summary
from .output import json_option, print_json, print_table


@click.group()
def configs() -> None:
    """List and print the package's configs, and write your own that inherit from them.

    NAME is the name of a file in configs/, with or without .py.
    """


@configs.command('list')
@click.option('--task', help='List only configs whose task contains this word.')
@json_option
def list_(task: str | None, as_json: bool) -> None:
    """List the configs: name, task and title."""
    found = [summary(name) for name in shipped()]
    found = [entry for entry in found if (task or '').lower() in (entry['task'] or '')]
    if as_json:
        print_json(found)
        return
    print_table(('name', 'task', 'title'), [(e['name'], e['task'], e['title']) for e in found])


@configs.command()
@click.argument('name')
@click.option('--resolved', is_flag=True, help='Merge its bases, as a Runner does.')
def show(name: str, resolved: bool) -> None:
    """Print a config file, or the config with its bases merged."""
    path = find(name)
    click.echo(read(path).pretty_text if resolved else path.read_text(), nl=resolved)


@configs.command()
@click.argument('name')
@click.argument('destination', required=False, type=click.Path(path_type=Path))
@click.option('--force', is_flag=True, help='Overwrite an existing file.')
def copy(name: str, destination: Path | None, force: bool) -> None:
    """Write a config that inherits from NAME to DESTINATION, a file or a folder.

    The default is the current folder. The new file refers to the installed config by its path, so
    that it works from any folder of this machine, contains only your changes, and follows updates
    of the package. For a file without dependencies, use `configs show NAME --resolved`.
    """
    source = find(name)
    target = destination or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise ArgumentError(f'{target} is there already; --force overwrites it')
    if target.exists() and target.samefile(source):
        raise ArgumentError(f'{target} is the config itself')
    target.parent.mkdir(parents=True, exist_ok=True)
    title = summary(source.stem)['title']
    target.write_text(
        f'# {title}\n'
        '# Inherits all of it; what is set below replaces or adds to what is there.\n'
        f'_base_ = {source.resolve().as_posix()!r}\n'
    )
    click.echo(str(target))

"""docs/cli.md has every command, and its examples are command lines that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from swin_backbone.cli.commands import commands

TEXT = (Path(__file__).resolve().parents[2] / 'docs' / 'cli.md').read_text()
EXAMPLES = re.findall(r'^swin-backbone (.*)$', TEXT, re.MULTILINE)


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


def test_every_command_has_an_example():
    for path in leaves(commands):
        assert any(example.startswith(' '.join(path)) for example in EXAMPLES), path


@pytest.mark.parametrize('example', EXAMPLES)
def test_examples_parse(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_config.py').touch()
    (tmp_path / 'iter_4.pth').mkdir()  # of shards
    command, arguments = commands, shlex.split(example)
    while isinstance(command, click.Group):
        name, command, arguments = command.resolve_command(click.Context(command), arguments)
    assert command.make_context(name, arguments).params

"""Errors of commands: one line, the documented exit code, and ``--debug``."""

from __future__ import annotations

import sys

import click
import pytest
from click.testing import CliRunner, Result

from swin_backbone.cli import commands as module
from swin_backbone.cli.commands import COMMANDS, commands
from swin_backbone.tools import configs

UNFORESEEN = 'Error: LookupError: no such thing; --debug shows the traceback\n'


def run(*arguments: str, code: int = 3) -> Result:
    result = CliRunner().invoke(commands, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def broken(monkeypatch):
    """Every command that reads a config raises an unexpected error."""

    def fail(*_):
        raise LookupError('no such thing\nin two lines')

    for name in ('swin_backbone.cli.configs', 'swin_backbone.tools.configs'):
        monkeypatch.setattr(f'{name}.find', fail)


@pytest.mark.parametrize(
    'arguments',
    [
        ('complexity', 'a'),
        ('configs', 'show', 'a'),
        ('show', '--config', 'a'),
        ('export', 'a', 'b', '--to', 'onnx'),
        ('serve', '--config', 'a', '--weights', 'b', '--port', '0'),
    ],
    ids=' '.join,
)
def test_an_error_that_nobody_foresaw_is_a_line(broken, arguments):
    assert run(*arguments).stderr == UNFORESEEN


@pytest.mark.parametrize(
    'arguments',
    [
        ('complexity', 'a', '--debug'),
        ('--debug', 'complexity', 'a'),
        ('configs', 'show', '--debug', 'a'),
        ('--debug', 'configs', 'show', 'a'),
    ],
    ids=' '.join,
)
def test_debug_shows_the_traceback_before_the_line(broken, arguments):
    said = run(*arguments).stderr
    assert said.startswith('Traceback (most recent call last)') and said.endswith(UNFORESEEN)
    assert 'in fail' in said


def test_debug_shows_that_of_the_packages_errors_too():
    plain, debugged = (run('configs', 'show', 'none', *more).stderr for more in ([], ['--debug']))
    assert plain.startswith("Error: no config is called 'none'") and 'Traceback' not in plain
    assert debugged.startswith('Traceback') and debugged.endswith(plain)


def test_debug_shows_why_a_command_cannot_start(monkeypatch):
    monkeypatch.setitem(sys.modules, 'swin_backbone.registration', None)
    monkeypatch.delattr('swin_backbone.registration', raising=False)
    assert run('complexity', 'a').output.startswith('swin-backbone cannot start (ModuleNotFound')
    assert 'Traceback' in run('complexity', 'a', '--debug').stderr


def test_debug_is_no_error_and_click_keeps_its_own():
    assert 'mask_rcnn_swin_t_coco' in run('configs', 'list', '--debug', code=0).output
    assert 'No such option' in run('configs', 'list', '--debugs', code=2).stderr
    assert 'Traceback' not in run('configs', 'show', '--debug', code=2).stderr


def test_every_command_has_it():
    def leaves(command):
        if isinstance(command, click.Group):
            return [leaf for inner in command.commands.values() for leaf in leaves(inner)]
        return [command]

    with click.Context(commands) as ctx:
        found = [leaf for name in COMMANDS for leaf in leaves(commands.get_command(ctx, name))]
    assert len(found) > len(COMMANDS)
    for command in found:
        assert [p.name for p in command.params].count('debug') == 1, command.name


def test_a_broken_torch_does_not_hide_the_error(broken, monkeypatch):
    monkeypatch.setitem(sys.modules, 'swin_backbone.tools.faults', None)
    said = run('configs', 'show', 'a').stderr
    assert said.startswith('Error: LookupError: no such thing')
    assert module.DEBUG not in said and configs.DOCTOR not in said

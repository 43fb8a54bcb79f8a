"""The root of the commands; each command or group of commands is in a file of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from ..errors import ArgumentError, CheckpointError
from ..imports import when_imported
from ..version import __version__

# Each command, in the module of the same name, with the first sentence of its docstring.
COMMANDS = {
    'complexity': "Count parameters and FLOPs of a config's model, part by part.",
    'configs': "List and print the package's configs, and write your own that inherit from them.",
    'data': 'Inspect the datasets of CONFIG and compare them with its model.',
    'doctor': 'Check the installation; print how to fix each problem, and exit with 1 if there is '
    'one.',
    'export': 'Export the model of CONFIG with the weights of CHECKPOINT, and check the result.',
    'plot': 'Plot the curves of the training LOGS of one or several runs.',
    'serve': "Serve a page that shows a model's boxes, masks, segments or classes of an image.",
    'show': 'Draw what a model sees in IMAGE: its prediction, features and attention.',
    'weights': 'List, download, inspect, compare and convert checkpoints.',
}


DEBUG = f'{__name__}.debug'  # the key in a context's meta that turns tracebacks on


def _want_tracebacks(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[DEBUG] = True  # shared by the contexts of all groups and commands


debug_option = click.option(
    '--debug',
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_want_tracebacks,
    help='Show the traceback of an error.',
)


class Commands(click.Group):
    """A group that imports its commands when they are called.

    An error in a command is printed as one line, with exit code 3. All commands accept ``--debug``,
    which prints the traceback as well.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return _with_debug(getattr(importlib.import_module(f'{__package__}.{name}'), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Like click's, without importing the commands."""
        briefly = [click.Command(name, help=text) for name, text in COMMANDS.items()]
        width = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section('Commands'):
            formatter.write_dl([(str(c.name), c.get_short_help_str(width)) for c in briefly])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _logged_to_stderr(), _any_name_printed():
                return super().invoke(ctx)
        # click handles its own errors and exits, and a closed pipe (`… | head`).
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError) as error:
            if error.__cause__ is not None:
                _print_traceback(ctx)
            raise
        except Exception as error:
            _print_traceback(ctx)
            click.echo(f'Error: {_line_of(error)}', err=True)
            ctx.exit(3)


def _print_traceback(ctx: click.Context) -> None:
    if ctx.meta.get(DEBUG):
        click.echo(traceback.format_exc(), err=True)


def _with_debug(command: click.Command) -> click.Command:
    """Adds ``--debug`` to a command, or to all commands of a group."""
    if isinstance(command, click.Group):
        for name in command.commands:
            _with_debug(command.commands[name])
    elif not any(parameter.name == 'debug' for parameter in command.params):
        debug_option(command)
    return command


def _line_of(error: Exception) -> str:
    """An error as one line; errors that this package does not raise itself are explained."""
    if isinstance(error, ArgumentError | CheckpointError | OSError):
        return str(error)
    try:
        from ..tools.faults import explain

        said = explain(error)
    except Exception:  # torch may be broken, which `doctor` reports
        said = f'{type(error).__name__}: {error}'
    return f'{said}; --debug shows the traceback'


@contextlib.contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """Sends mmengine's log to stderr, from warnings on: stdout is for results."""
    with contextlib.ExitStack() as stack:
        stack.callback(when_imported('mmengine', lambda: stack.enter_context(_redirected())))
        yield


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    before: list[tuple[Any, Any, int]] = []
    with contextlib.suppress(Exception):  # torch may be broken, which `doctor` reports
        from mmengine.logging import MMLogger

        for handler in MMLogger.get_current_instance().handlers:
            if type(handler) is logging.StreamHandler:
                before.append((handler, handler.stream, handler.level))
                handler.setStream(sys.stderr)
                handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, stream, level in before:
            handler.setStream(stream)
            handler.setLevel(level)


@contextlib.contextmanager
def _any_name_printed() -> Iterator[None]:
    """Escapes file names that the terminal's encoding does not have."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != 'strict':
        yield
        return
    stream.reconfigure(errors='backslashreplace')
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it flushes, and the pipe may be closed
            stream.reconfigure(errors='strict')


@click.group(cls=Commands, context_settings=dict(help_option_names=['-h', '--help']))
@click.version_option(__version__)
@debug_option
def commands() -> None:
    """Tools of swin_backbone.

    Exit codes: 0 success; 1 differences or problems found; 2 invalid command line; 3 failure.
    """

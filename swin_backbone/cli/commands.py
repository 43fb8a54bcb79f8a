"""The root of the commands; a room's commands are a group in a file of their own."""

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

# Each is a command of the module of its name; with what `--help` says of it, as its docstring does.
COMMANDS = {
    'complexity': "Count parameters and FLOPs of a config's model, part by part.",
    'configs': "The package's own configs: what there is, what is in them, copies to change.",
    'data': 'Look into the data of CONFIG, and compare them with its model.',
    'doctor': 'Examine the installation; exit code 1 if something is wrong, with the command that '
    'mends it.',
    'export': 'Write the model of CONFIG with the weights of CHECKPOINT as a file, and check it.',
    'plot': 'Draw the curves of the training LOGS of one or several runs.',
    'serve': "Serve a page that shows a model's boxes, masks, segments or classes of an image.",
    'show': 'Draw what a model sees in IMAGE: its prediction, its features, its attention.',
    'weights': 'Published and own checkpoints.',
}


DEBUG = f'{__name__}.debug'  # in a context's meta: whether tracebacks are wanted


def _want_tracebacks(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[DEBUG] = True  # which the contexts of all groups and commands share


debug_option = click.option(
    '--debug',
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_want_tracebacks,
    help='Show the traceback of an error.',
)


class Commands(click.Group):
    """A group whose commands are imported when they are called.

    Whatever error ends a command is reported in a line, with exit code 3; ``--debug``, which all
    commands take, has its traceback printed before.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return _with_debug(getattr(importlib.import_module(f'{__package__}.{name}'), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, which would import them all."""
        briefly = [click.Command(name, help=text) for name, text in COMMANDS.items()]
        width = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section('Commands'):
            formatter.write_dl([(str(c.name), c.get_short_help_str(width)) for c in briefly])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _logged_to_stderr(), _any_name_printed():
                return super().invoke(ctx)
        # Click's own errors and exits, and `… | head`, are its business.
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
    """A command, or a group's commands, with ``--debug``."""
    if isinstance(command, click.Group):
        for name in command.commands:
            _with_debug(command.commands[name])
    elif not any(parameter.name == 'debug' for parameter in command.params):
        debug_option(command)
    return command


def _line_of(error: Exception) -> str:
    """What is said of an error: what this package says, or what is to be known of another's."""
    if isinstance(error, ArgumentError | CheckpointError | OSError):
        return str(error)
    try:
        from ..tools.faults import explain

        said = explain(error)
    except Exception:  # a broken torch, which `doctor` looks for
        said = f'{type(error).__name__}: {error}'
    return f'{said}; --debug shows the traceback'


@contextlib.contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """mmengine logs to stdout, which is for results; and only warnings matter here."""
    with contextlib.ExitStack() as stack:
        stack.callback(when_imported('mmengine', lambda: stack.enter_context(_redirected())))
        yield


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    before: list[tuple[Any, Any, int]] = []
    with contextlib.suppress(Exception):  # a broken torch, which `doctor` looks for
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
    """Files may have names that are no text in the terminal's encoding; those get backslashes."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != 'strict':
        yield
        return
    stream.reconfigure(errors='backslashreplace')
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it flushes: `… | head` again
            stream.reconfigure(errors='strict')


@click.group(cls=Commands, context_settings=dict(help_option_names=['-h', '--help']))
@click.version_option(__version__)
@debug_option
def commands() -> None:
    """Tools of swin_backbone.

    Exit codes: 0 done; 1 differs, is wrong or does not fit; 2 wrong command line; 3 not possible.
    """

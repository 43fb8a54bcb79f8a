"""The root of the commands; a room's commands are a group in a file of their own."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click
from mmengine.logging import MMLogger

from ..errors import ArgumentError, CheckpointError
from ..version import __version__
from .complexity import complexity
from .configs import configs
from .doctor import doctor
from .export import export
from .plot import plot
from .serve import serve
from .show import show
from .weights import weights


class Commands(click.Group):
    """A group that reports the package's errors in a line and ends with exit code 3."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _logged_to_stderr(), _any_name_printed():
                return super().invoke(ctx)
        except BrokenPipeError:  # `… | head`: click's business
            raise
        except (ArgumentError, CheckpointError, OSError) as error:
            click.echo(f'Error: {error}', err=True)
            ctx.exit(3)


@contextlib.contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """mmengine logs to stdout, which is for results; and only warnings matter here."""
    handlers = [
        handler
        for handler in MMLogger.get_current_instance().handlers
        if type(handler) is logging.StreamHandler
    ]
    before = [(handler, handler.stream, handler.level) for handler in handlers]
    for handler in handlers:
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
def commands() -> None:
    """Tools of swin_backbone.

    Exit codes: 0 done; 1 differs, is wrong or does not fit; 2 wrong command line; 3 not possible.
    """


for command in (weights, configs, complexity, export, show, plot, serve, doctor):
    commands.add_command(command)

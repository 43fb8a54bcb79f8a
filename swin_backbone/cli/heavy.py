"""Commands that need torch, mmengine and mmcv."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar('Function', bound=Callable[..., Any])


class _CannotStart(click.ClickException):
    """A package that the command needs is broken; exit code 3."""

    exit_code = 3

    def show(self, file: Any = None) -> None:
        click.echo(self.format_message())


def needs_models(function: Function) -> Function:
    """Imports the backbones before a command runs, and reports a failure in one line."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            from .. import registration  # noqa: F401
        except Exception as error:  # a broken torch, mmengine or mmcv may raise anything
            cause = f'{type(error).__name__}: {error}'
            raise _CannotStart(
                f'swin-backbone cannot start ({cause}): `swin-backbone doctor` says why'
            ) from error
        return function(*args, **kwargs)

    return run  # type: ignore[return-value]

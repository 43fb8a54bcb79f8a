"""The command line, ``swin-backbone``. Exit codes:

- 0: success
- 1: a comparison found differences, a check found a problem, or a checkpoint does not fit
- 2: the command line is invalid
- 3: the command failed: no such file or name, an unreadable file, a failed download

Modules of commands import heavy packages only inside functions, so that help and lists are fast.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"swin-backbone needs click and rich ({error}): pip install 'swin_backbone[cli]'")
        sys.exit(3)
    from .commands import commands

    commands(prog_name='swin-backbone')

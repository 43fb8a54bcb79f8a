"""The command line, ``swin-backbone``. Exit codes:

- 0: done, and nothing is wrong
- 1: what was compared differs, what was verified or examined is wrong, or a checkpoint does not fit
- 2: the command line is wrong
- 3: it could not be done: no such file or name, an unreadable file, a failed download

A command's module imports nothing heavy but in its functions: help and lists take no longer than
Python and click need.
"""

from __future__ import annotations

import sys


def main() -> None:
    """What the console script calls."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"swin-backbone needs click and rich ({error}): pip install 'swin_backbone[cli]'")
        sys.exit(3)
    from .commands import commands

    commands(prog_name='swin-backbone')

"""The command line, ``swin-backbone``. Exit codes:

- 0: done, and nothing is wrong
- 1: what was compared differs, what was verified is wrong, or a checkpoint does not fit a config
- 2: the command line is wrong
- 3: it could not be done: no such file or name, an unreadable file, a failed download
"""

from __future__ import annotations

import sys


def main() -> None:
    """What the console script calls."""
    try:
        from .commands import commands
    except ModuleNotFoundError as error:
        if error.name not in ('click', 'rich'):
            raise
        print(f"swin-backbone needs click and rich ({error}): pip install 'swin_backbone[cli]'")
        sys.exit(3)
    commands(prog_name='swin-backbone')

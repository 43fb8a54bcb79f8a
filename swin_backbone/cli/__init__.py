"""The command line, ``swin-backbone``. Exit codes:

- 0: done, and nothing is wrong
- 1: what was compared differs, what was verified or examined is wrong, or a checkpoint does not fit
- 2: the command line is wrong
- 3: it could not be done: no such file or name, an unreadable file, a failed download
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
    try:
        from .commands import commands
    except Exception as error:  # whatever broken torch, mmengine or mmcv may raise
        if sys.argv[1:2] != ['doctor']:
            cause = f'{type(error).__name__}: {error}'
            print(f'swin-backbone cannot start ({cause}): `swin-backbone doctor` says why')
            sys.exit(3)
        from .doctor import doctor

        doctor(sys.argv[2:], prog_name='swin-backbone doctor')
    else:
        commands(prog_name='swin-backbone')

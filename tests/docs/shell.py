"""A shell in which the documentation's commands are this checkout's and this environment's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from blocks import ROOT

from swin_backbone.demo.jobs import mims_name

COMMANDS = {
    'python': 'exec "{python}" -W ignore "$@"',
    'swin-backbone': 'exec "{python}" -W ignore -m swin_backbone.cli "$@"',
    # OneDL's mim knows mmdet by its other name alone.
    'mim': (
        'verb=$1 framework=$2; shift 2\n'
        'case $framework in mmdet) framework={mmdet} ;; mmseg) framework={mmseg} ;; esac\n'
        'exec "{python}" -W ignore -m mim "$verb" "$framework" "$@"'
    ),
}


class Shell:
    """Runs command lines in a folder.

    Args:
        folder: The working directory.
        commands: Where to put the commands; a folder of its own.
        variables: Environment variables to add.
    """

    def __init__(self, folder: Path, commands: Path, **variables: str) -> None:
        self.folder = folder
        names = {name: mims_name(name) for name in ('mmdet', 'mmseg')}
        commands.mkdir(parents=True, exist_ok=True)
        for name, script in COMMANDS.items():
            file = commands / name
            file.write_text('#!/bin/sh\n' + script.format(python=sys.executable, **names) + '\n')
            file.chmod(0o755)
        self.environment = dict(os.environ) | variables
        self.environment['PATH'] = f'{commands}{os.pathsep}{os.environ["PATH"]}'
        self.environment['PYTHONPATH'] = os.pathsep.join(
            filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
        )

    def run(self, command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a command line to its end; stdout has all that it printed."""
        return subprocess.run(
            ['bash', '-e', '-c', command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

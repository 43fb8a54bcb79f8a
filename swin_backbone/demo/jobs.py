"""Trains and tests a model by mim's own commands; picks up what an earlier run left."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch
from mmengine.config import Config
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..engine.quiet import python_warnings
from ..files import write
from .scenes import VERSION

_TRAINED = re.compile(r'Iter\(train\) \[ *(?P<step>\d+)/(?P<steps>\d+)\].* loss: (?P<loss>\S+)')
_LOG_TAIL = 60  # of which mim's own traceback takes the last half


@dataclass
class Job:
    """One model to train and test.

    Attributes:
        name: What to call it; also its folder's name.
        framework: ``'mmdet'`` or ``'mmseg'``.
        config: The config file.
        folder: Where its checkpoints and logs go; its own, whose content may be deleted.
        predictions: Name of the file or folder, in ``test/``, of the predictions.
        options: Dotted keys of the config with the values to replace theirs.
        threads: Threads that the commands compute with.
    """

    name: str
    framework: str
    config: Path
    folder: Path
    predictions: str
    options: dict[str, object] = field(default_factory=dict)
    threads: int = 1
    _process: subprocess.Popen | None = field(default=None, init=False, repr=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """Changes whenever training again would not repeat the training that was."""
        config = Config.fromfile(self.config, import_custom_modules=False)
        config.merge_from_dict(self.options)
        text = json.dumps([config.to_dict(), VERSION], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end."""
        try:
            # mmengine writes this name after the checkpoint itself.
            newest = self.folder / Path((self.folder / 'last_checkpoint').read_text()).name
            torch.load(newest, map_location='cpu', weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return newest

    @property
    def record(self) -> Path:
        """Says which training the folder holds, and whether it came to its end."""
        return self.folder / 'training.json'

    @property
    def found(self) -> Path:
        """Where the test leaves its predictions."""
        return self.folder / 'test' / self.predictions

    def forget(self) -> None:
        """Deletes what training left.

        Raises:
            click.ClickException: The folder holds something else; it is left alone.
        """
        if self.folder.exists() and not self.record.exists():
            raise click.ClickException(f'{self.folder} is there, and not from this demo: move it')
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Kills the command that another thread runs; a later one is killed at its start."""
        self._stopped.set()
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def train(self, progress: Progress) -> None:
        """Trains to the end, from where an earlier run of the same training stopped.

        Raises:
            click.ClickException: The command failed.
        """
        state = _read_json(self.record)
        if state.get('fingerprint') != self.fingerprint:
            self.forget()
            state = {'fingerprint': self.fingerprint, 'finished': False}
        checkpoint = self.checkpoint
        if state['finished'] and checkpoint:
            progress.console.print(f'The {self.name} is trained already: {checkpoint}')
            return
        write_json(self.record, {**state, 'finished': False})
        resume = ['--resume'] if checkpoint else []
        if resume:
            progress.console.print(f'An interrupted training goes on from {checkpoint}')
        self._mim(progress, 'train', '--work-dir', str(self.folder), *resume)
        write_json(self.record, {**state, 'finished': True})

    def test(self, progress: Progress) -> dict[str, float]:
        """Tests the trained model; returns its metrics as the framework names them.

        Raises:
            click.ClickException: The command failed.
        """
        folder = self.folder / 'test'
        shutil.rmtree(folder, ignore_errors=True)
        where = ['--work-dir', str(folder), '--out', str(self.found)]
        self._mim(progress, 'test', '--checkpoint', str(self.checkpoint), *where)
        return _read_json(next(folder.glob('*/*.json')))

    def losses(self) -> list[tuple[int, float]]:
        """(iteration, training loss) in order, over all runs that the training took."""
        losses = {}
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                # The last line of a run that was killed may be cut off.
                entry = json.loads(line) if line.endswith('}') else {}
                if 'loss' in entry:
                    losses[entry['step']] = entry['loss']
        return sorted(losses.items())

    def _mim(self, progress: Progress, verb: str, *arguments: str) -> None:
        """Runs ``mim train`` or ``mim test``, and shows how far it is."""
        command = ['mim', verb, mims_name(self.framework), _short(self.config), *arguments]
        if self.options:
            command += ['--cfg-options', *(f'{key}={value}' for key, value in self.options.items())]
        console = progress.console
        console.print(f'[bold]$ {escape(" ".join(command))}', highlight=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f'{verb}.log'
        task = progress.add_task(f'{verb}ing the {self.name}', total=None)
        with log.open('w') as file, self._started([sys.executable, '-m', *command]) as process:
            for line in process.stdout or ():
                file.write(line)
                file.flush()
                if match := _TRAINED.search(line):
                    step, steps, loss = int(match['step']), int(match['steps']), match['loss']
                    progress.update(task, completed=step, total=steps)
                    if not console.is_terminal:
                        console.print(f'  {self.name}: iteration {step} of {steps}, loss {loss}')
        progress.remove_task(task)
        if status := process.returncode:
            tail = '\n'.join(log.read_text().splitlines()[-_LOG_TAIL:])
            raise click.ClickException(
                f'{verb}ing the {self.name} failed with exit status {status}. '
                f'The end of {log}:\n{tail}'
            )

    @contextmanager
    def _started(self, command: list[str]) -> Iterator[subprocess.Popen]:
        """A running command, waited for; killed with all that it started if the job is stopped."""
        self._process = subprocess.Popen(
            command,
            env=_environment(self.threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
        )
        try:
            if self._stopped.is_set():
                self.stop()
            yield self._process
            self._process.wait()
        except BaseException:
            self.stop()
            raise


def mims_name(framework: str) -> str:
    """What the installed mim calls a framework: OneDL's knows mmdet as mmdetection alone."""
    from mim.utils import module_full_name

    return framework if module_full_name(framework) else {'mmdet': 'mmdetection'}[framework]


def _environment(threads: int) -> dict[str, str]:
    """The variables of the commands.

    GNU OpenMP's threads spin for milliseconds at the end of each parallel region, which at this
    size costs several times the region's work if another process has one of the cores. They spin
    for a shorter time here and then sleep, unless the user has set how they wait.
    """
    warned = python_warnings(os.environ.get('PYTHONWARNINGS', ''))
    waiting = {} if 'OMP_WAIT_POLICY' in os.environ else {'GOMP_SPINCOUNT': '10000'}
    own = {'OMP_NUM_THREADS': str(threads), 'PYTHONWARNINGS': warned}
    return {**waiting, **os.environ, **own}


def bar(console: Console) -> Progress:
    """Shows how far commands are, for as long as it is entered."""
    columns = (TextColumn('  {task.description}'), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _short(path: Path) -> str:
    """The path from the current directory, where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, content: dict) -> None:
    """Writes a file that is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content, indent=2) + '\n')

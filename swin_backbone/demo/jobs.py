"""Trains and tests a model by mim's commands, and resumes interrupted runs."""

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
_LOG_TAIL = 60  # lines; the last half is mim's own traceback


@dataclass
class Job:
    """One model to train and test.

    Attributes:
        name: Name of the job and of its folder.
        framework: ``'mmdet'`` or ``'mmseg'``.
        config: The config file.
        folder: Folder of checkpoints and logs. Its content may be deleted.
        predictions: Name of the predictions' file or folder in ``test/``.
        options: Values that replace those of the config, by dotted keys.
        threads: Number of threads of the commands.
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
        """A hash of everything that determines the result of the training."""
        config = Config.fromfile(self.config, import_custom_modules=False)
        config.merge_from_dict(self.options)
        text = json.dumps([config.to_dict(), VERSION], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        try:
            # mmengine writes this name after the checkpoint itself.
            newest = self.folder / Path((self.folder / 'last_checkpoint').read_text()).name
            torch.load(newest, map_location='cpu', weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return newest

    @property
    def record(self) -> Path:
        """The file with the fingerprint of the folder's training, and whether it is finished."""
        return self.folder / 'training.json'

    @property
    def found(self) -> Path:
        """The path of the test's predictions."""
        return self.folder / 'test' / self.predictions

    def forget(self) -> None:
        """Deletes the folder.

        Raises:
            click.ClickException: The folder was not written by this demo.
        """
        if self.folder.exists() and not self.record.exists():
            raise click.ClickException(f'{self.folder} is there, and not from this demo: move it')
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Kills the command that another thread runs or will start."""
        self._stopped.set()
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def train(self, progress: Progress) -> None:
        """Trains to the end, and resumes an interrupted run of the same training.

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
        """Tests the trained model and returns its metrics by the framework's names.

        Raises:
            click.ClickException: The command failed.
        """
        folder = self.folder / 'test'
        shutil.rmtree(folder, ignore_errors=True)
        where = ['--work-dir', str(folder), '--out', str(self.found)]
        self._mim(progress, 'test', '--checkpoint', str(self.checkpoint), *where)
        return _read_json(next(folder.glob('*/*.json')))

    def losses(self) -> list[tuple[int, float]]:
        """(iteration, training loss) in order, over all runs of the training."""
        losses = {}
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                # The last line of a killed run may be truncated.
                entry = json.loads(line) if line.endswith('}') else {}
                if 'loss' in entry:
                    losses[entry['step']] = entry['loss']
        return sorted(losses.items())

    def _mim(self, progress: Progress, verb: str, *arguments: str) -> None:
        """Runs ``mim train`` or ``mim test`` with a progress bar."""
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
        """A running command. It is waited for, or killed if the job is stopped."""
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
    """The installed mim's name of a framework: OneDL's mim only knows mmdet as mmdetection."""
    from mim.utils import module_full_name

    return framework if module_full_name(framework) else {'mmdet': 'mmdetection'}[framework]


def _environment(threads: int) -> dict[str, str]:
    """The environment variables of the commands.

    Threads of GNU OpenMP spin for milliseconds at the end of each parallel region. For models of
    this size that takes several times as long as the region, if another process uses one of the
    cores. Here they spin for a shorter time and then sleep, unless the user has set a wait policy.
    """
    warned = python_warnings(os.environ.get('PYTHONWARNINGS', ''))
    waiting = {} if 'OMP_WAIT_POLICY' in os.environ else {'GOMP_SPINCOUNT': '10000'}
    own = {'OMP_NUM_THREADS': str(threads), 'PYTHONWARNINGS': warned}
    return {**waiting, **os.environ, **own}


def bar(console: Console) -> Progress:
    """A progress bar of the commands."""
    columns = (TextColumn('  {task.description}'), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _short(path: Path) -> str:
    """The shorter one of a path and its form relative to the current directory."""
    return min(str(path), os.path.relpath(path), key=len)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content, indent=2) + '\n')

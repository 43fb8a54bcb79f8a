"""Curves from mmengine's logs of one or several runs: loss, metrics, throughput, memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import ArgumentError

MOST_TOGETHER = 6  # up to so many parts of the loss share a panel
_LINE = re.compile(
    r'INFO - (?P<loop>Iter|Epoch)\((?P<mode>train|val)\)\s+'
    r'(?:\[\s*(?P<epoch>\d+)\])?\[\s*(?P<step>\d+)/\s*(?P<steps>\d+)\]\s(?P<rest>.*)'
)
_VALUE = re.compile(r'(\S+): +(-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)(?=\s|$)', re.IGNORECASE)
_SCALARS = Path('vis_data', 'scalars.json')

Curve = tuple[list[float], list[float]]


@dataclass
class Run:
    """The logged values of a run.

    Attributes:
        name: The name in plots.
        train: The iterations and values of each quantity.
        val: The iterations or epochs, and values, of each metric.
        by_epoch: Whether the steps in ``val`` are epochs.
    """

    name: str
    train: dict[str, Curve] = field(default_factory=dict)
    val: dict[str, Curve] = field(default_factory=dict)
    by_epoch: bool = False

    def add(self, entries: Iterable[Entry]) -> None:
        """Appends the entries of a log; steps that a resumed run repeats are replaced."""
        entries = list(entries)
        for mode, curves in (('train', self.train), ('val', self.val)):
            mine = [e for e in entries if e.mode == mode]
            if not mine:
                continue
            start = min(e.step for e in mine)
            for steps, values in curves.values():
                kept = sum(step < start for step in steps)
                del steps[kept:], values[kept:]
            for entry in mine:
                self.by_epoch |= entry.by_epoch
                for key, value in entry.values.items():
                    steps, values = curves.setdefault(key, ([], []))
                    steps.append(entry.step)
                    values.append(value)


@dataclass(frozen=True)
class Entry:
    """A line of a log: ``mode`` is ``'train'`` or ``'val'``."""

    mode: str
    step: float
    values: dict[str, float]
    by_epoch: bool


def read_runs(logs: Sequence[str | Path]) -> list[Run]:
    """Reads runs, each from a work folder or a log in it.

    Args:
        logs: For each run, a work folder, with the logs of all its starts and resumptions; the
            folder of one start; a file of scalars (``…/vis_data/scalars.json``); or a text log
            (``….log``).

    Raises:
        ArgumentError: There is no such log, or it contains no numbers of a training.
    """
    paths = [Path(log).expanduser() for log in logs]
    names = _names(paths)
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(log: str | Path, name: str | None = None) -> Run:
    """Reads one run; see :func:`read_runs`."""
    path = Path(log).expanduser()
    run = Run(name or path.stem)
    for file in _files(path):
        run.add(_text_entries(file) if file.suffix in ('.log', '.txt') else _json_entries(file))
    if not (run.train or run.val):
        raise ArgumentError(f'{path} holds no numbers of a training that mmengine logged')
    return run


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ArgumentError(f'{path} is not there: a work folder, *.json or *.log is needed')
    # The folders of starts are named after their time.
    found = [path / _SCALARS, path / 'scalars.json', *sorted(path.glob(f'*/{_SCALARS}'))]
    found = [file for file in found if file.is_file()]
    found = found or sorted([*path.glob('*/*.log'), *path.glob('[0-9]*.log')])
    if not found:
        raise ArgumentError(f'{path} has no log of mmengine: no */{_SCALARS} and no */*.log')
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct ends of the paths, without the names that all logs have."""
    resolved = [path.resolve() for path in paths]
    parts = []
    for path in resolved:
        if path.name == 'scalars.json' or path.parent.name == 'vis_data':
            path = path.parent.parent
        parts.append(path.with_suffix('').parts if path.suffix in ('.json', '.log') else path.parts)
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{name} ({i})' for i, name in enumerate(names, 1)]  # a log that is given twice


def _json_entries(file: Path) -> Iterator[Entry]:
    lines = file.read_text(errors='replace').splitlines()
    last, by_epoch = 0.0, False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.rstrip().endswith('}'):
                return  # the run was killed while writing
            raise ArgumentError(f'{file}, line {number}: no JSON of mmengine: {error}') from None
        if not isinstance(found, Mapping):
            raise ArgumentError(f'{file}, line {number}: a {type(found).__name__}, not an object')
        step = found.get('step')
        if not isinstance(step, int | float):
            continue  # metrics of a test, which belong to no step of a training
        mode = 'train' if 'iter' in found or 'loss' in found or 'lr' in found else 'val'
        if mode == 'train':
            last, by_epoch = step, by_epoch or 'epoch' in found
        elif not by_epoch:
            # By default, mmengine logs the epoch here, even for training by iterations.
            step = max(step, last)
        values = {
            str(key): float(value)
            for key, value in found.items()
            if key not in ('step', 'iter', 'epoch') and _is_number(value)
        }
        yield Entry(mode, step, values, by_epoch)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text_entries(file: Path) -> Iterator[Entry]:
    last = 0
    for line in file.read_text(errors='replace').splitlines():
        if not (found := _LINE.search(line)):
            continue
        values = {key: float(value) for key, value in _VALUE.findall(found['rest'])}
        step, by_epoch = int(found['step']), found['loop'] == 'Epoch'
        if found['mode'] == 'train':
            # Training by epochs logs the iteration within the epoch.
            last = step + (int(found['epoch']) - 1) * int(found['steps']) if by_epoch else step
            yield Entry('train', last, values, by_epoch)
        elif any(key not in ('time', 'data_time', 'memory', 'eta') for key in values):
            # Validation in training by iterations logs only its own progress.
            yield Entry('val', int(found['epoch']) if by_epoch else last, values, by_epoch)


@dataclass(frozen=True)
class Panel:
    """One plot of a figure.

    Attributes:
        title: Its title.
        unit: The unit of its values.
        mode: ``'train'`` or ``'val'``.
        keys: The logged quantities that it shows, and their names in the legend.
        logarithmic: Whether a logarithmic axis suits the values.
    """

    title: str
    unit: str
    mode: str
    keys: dict[str, str]
    logarithmic: bool = False


def panels(runs: Sequence[Run]) -> list[Panel]:
    """The panels for which there is data, in drawing order."""
    train = _keys(run.train for run in runs)
    val = _keys(run.val for run in runs)
    alone = len(runs) == 1
    found = []
    if 'loss' in train:
        found.append(Panel('training loss', '', 'train', {'loss': 'loss'}, True))
    found += _metrics(val, alone)
    for title, unit, keys in (
        ('throughput', 'images a second', {'images_per_second': 'throughput'}),
        ('memory', 'MiB, the most so far', {'memory': 'memory'}),
        ('time of an iteration', 'seconds', {'time': 'in all', 'data_time': 'waiting for data'}),
        ('learning rate', '', {'lr': 'learning rate'}),
        ('norm of the gradient', '', {'grad_norm': 'norm'}),
    ):
        keys = {key: name for key, name in keys.items() if key in train}
        if len(keys) > 1 and not alone:
            found += [Panel(f'{title}, {n}', unit, 'train', {k: n}) for k, n in keys.items()]
        elif keys:
            found.append(Panel(title, unit, 'train', keys))
    parts = [key for key in train if key != 'loss' and 'loss' in key.rsplit('.', 1)[-1]]
    if alone and 0 < len(parts) <= MOST_TOGETHER:
        return [*found, Panel('parts of the loss', '', 'train', {k: k for k in parts}, True)]
    return [*found, *(Panel(key, '', 'train', {key: key}, True) for key in parts)]


def _keys(curves: Iterable[Mapping[str, Curve]]) -> list[str]:
    """The keys, in the order in which they first appear in the logs."""
    return list(dict.fromkeys(key for run in curves for key in run))


def _metrics(val: Sequence[str], alone: bool) -> list[Panel]:
    """COCO's box and mask AP, mIoU, accuracy and PQ; their variants only for a single run."""
    found = []
    for title, end, unit, more in (
        ('box AP', 'bbox_mAP', '', {'_50': 'AP50', '_75': 'AP75'}),
        ('mask AP', 'segm_mAP', '', {'_50': 'AP50', '_75': 'AP75'}),
        ('mIoU', 'mIoU', '%', {}),
        ('accuracy', 'accuracy/top1', '%', {}),
        ('PQ', 'PQ', '', {}),
    ):
        for key in val:
            if key != end and not key.endswith('/' + end):
                continue
            keys = {key: 'AP' if end.endswith('mAP') else title}
            if alone:
                keys |= {key + e: name for e, name in more.items() if key + e in val}
                keys |= {k: k for k in ('mAcc', 'aAcc') if end == 'mIoU' and k in val}
                if end == 'accuracy/top1':
                    keys = {key: 'top 1', **{k: 'top 5' for k in val if k.endswith('/top5')}}
            found.append(Panel(title, unit, 'val', keys))
    return found


def draw_curves(runs: Sequence[Run]) -> Figure:
    """A figure of the panels for which the runs have data.

    Raises:
        ArgumentError: They have none of what is drawn.
    """
    chosen = panels(runs)
    if not chosen:
        raise ArgumentError('the logs have no loss, metric, throughput, memory, time or rate')
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.4), layout='constrained')
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, chosen, strict=False):
        _draw(axis, panel, runs)
    for axis in axes[len(chosen) :]:
        axis.set_visible(False)
    if len(runs) > 1:
        handles = [axes[0].plot([], [], color=_colour(i))[0] for i in range(len(runs))]
        names = [run.name for run in runs]
        figure.legend(
            handles, names, loc='outside lower center', ncols=min(4, len(runs)), frameon=False
        )
    else:
        figure.suptitle(runs[0].name, fontsize=12)
    return figure


def _draw(axis: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    counts = set()
    everything: list[float] = []
    for i, run in enumerate(runs):
        curves = run.train if panel.mode == 'train' else run.val
        for j, (key, name) in enumerate(panel.keys.items()):
            if key not in curves:
                continue
            steps, values = curves[key]
            everything += values
            counts.add('epoch' if panel.mode == 'val' and run.by_epoch else 'iteration')
            colour = _colour(i if len(runs) > 1 else j)
            marker = 'o' if panel.mode == 'val' or len(steps) == 1 else None
            axis.plot(steps, values, color=colour, lw=1.5, marker=marker, ms=4, label=name)
    finite = np.array([v for v in everything if np.isfinite(v)])
    axis.set_title(panel.title, fontsize=11)
    axis.set_xlabel(' or '.join(sorted(counts)), fontsize=9)
    axis.set_ylabel(panel.unit, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.set_xlim(left=0)
    if len(finite) and panel.logarithmic and finite.min() > 0 and finite.max() > 4 * finite.min():
        axis.set_yscale('log')
        axis.grid(which='minor', alpha=0.12)
        axis.tick_params(which='minor', labelsize=7)
    elif len(finite) and finite.min() >= 0:
        axis.set_ylim(bottom=0)
    if len(finite) < len(everything):
        note = f'{len(everything) - len(finite)} values are not finite'
        axis.text(0.5, 0.97, note, transform=axis.transAxes, ha='center', va='top', color='#b00020')
    if len(runs) == 1 and len(panel.keys) > 1:
        # Below the panel, so that it does not cover curves.
        axis.legend(
            fontsize=8, frameon=False, ncols=3, loc='upper center', bbox_to_anchor=(0.5, -0.17)
        )


def _colour(i: int) -> str:
    return f'C{i % 10}'


def last_values(run: Run) -> dict[str, dict[str, float | None]]:
    """The last logged value of each quantity, under ``train`` and ``val``; None if not finite."""
    return {
        mode: {
            key: values[-1] if np.isfinite(values[-1]) else None
            for key, (_, values) in curves.items()
            if values
        }
        for mode, curves in (('train', run.train), ('val', run.val))
    }

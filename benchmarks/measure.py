"""Timing of several functions in turns, peak memory, and tables of both."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

OUT = Path(__file__).parent / 'results'


def interleaved(
    functions: dict[str, Callable[[], None]], rounds: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Seconds of each function: median, fastest and slowest of ``rounds``, all taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(warmup + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            _wait()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: dict(median=statistics.median(taken), least=min(taken), most=max(taken))
        for name, taken in seconds.items()
    }


def peak_above_idle(script: str, arguments: Sequence[str]) -> int:
    """Bytes that a fresh process's resident memory grows by between "ready" and its peak.

    The script must call :func:`report_peak` with what is to be measured.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def report_peak(function: Callable[[], None]) -> None:
    """Runs the function once and prints the peak of resident memory above that before, in bytes."""
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    idle = _status('VmRSS')
    function()
    print(_status('VmHWM') - idle)


def _status(field: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """Processor, threads, and GPU if any."""
    model = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((x.split(': ')[1] for x in lines if x.startswith('model name')), model)
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    return f'{model}, {torch.get_num_threads()} of {os.cpu_count()} cores used{gpu}'


def write(name: str, title: str, rows: dict[str, dict], versions: dict[str, str]) -> None:
    """``results/<name>.json``, ``.md`` and ``.png``; prints the Markdown."""
    OUT.mkdir(exist_ok=True)
    today = datetime.date.today().isoformat()
    record = dict(title=title, machine=machine(), date=today, versions=versions, rows=rows)
    (OUT / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')
    columns = list(next(iter(rows.values())))
    table = [f'| | {" | ".join(columns)} |', '|---' * (len(columns) + 1) + '|']
    for row, values in rows.items():
        table.append(f'| {row} | {" | ".join(f"{values[c]:.4g}" for c in columns)} |')
    listed = ', '.join(f'{k} {v}' for k, v in versions.items())
    text = f'**{title}.** {machine()}; {today}; {listed}.\n\n' + '\n'.join(table) + '\n'
    (OUT / f'{name}.md').write_text(text)
    _chart(OUT / f'{name}.png', title, rows)
    print(text)


def _chart(path: Path, title: str, rows: dict[str, dict]) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    timed = {name: row for name, row in rows.items() if 'median, s' in row}
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(timed) + 1.2), layout='constrained')
    axes.barh(list(timed), [row['median, s'] for row in timed.values()])
    axes.invert_yaxis()
    axes.set(title=title, xlabel='seconds, median')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

"""Interleaved timing, peak memory, the machine's limits, and tables of the results."""

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
    """Median, least and most seconds of each function over ``rounds`` interleaved rounds."""
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
    """The increase of peak resident memory by a function in a new process, in bytes.

    The script must call :func:`report_peak` with the function.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def report_peak(function: Callable[[], None]) -> None:
    """Runs the function once and prints the increase of peak resident memory in bytes."""
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    idle = status('VmRSS')
    function()
    print(status('VmHWM') - idle)


def status(field: str) -> int:
    """This process's ``VmRSS`` (resident memory) or ``VmHWM`` (its peak) in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_peak(device: str = 'cpu', dtype: torch.dtype = torch.float32, side: int = 2048) -> float:
    """FLOP/s of the fastest available square matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products = {'PyTorch': lambda: torch.mm(a, b)}
    if device == 'cpu':
        from swin_backbone.ops.linear import linear

        products['oneDNN'] = lambda: linear(a, b, None)
    taken = interleaved(products, rounds=7, warmup=2)
    return 2 * side**3 / min(t['least'] for t in taken.values())


def bandwidth(device: str = 'cpu', size: int = 2**28) -> float:
    """Bytes per second, read and written, of a large copy."""
    a = torch.ones(size, dtype=torch.uint8, device=device)
    b = torch.zeros_like(a)
    taken = interleaved({'copy': lambda: b.copy_(a)}, rounds=7, warmup=2)
    return 2 * size / taken['copy']['least']


def machine() -> str:
    """Processor, threads, and GPU if any."""
    model = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((x.split(': ')[1] for x in lines if x.startswith('model name')), model)
    gpu = f', {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    return f'{model}, {torch.get_num_threads()} of {os.cpu_count()} cores used{gpu}'


def write(
    out: Path,
    name: str,
    title: str,
    rows: dict[str, dict[str, float]],
    versions: dict[str, str],
    facts: dict[str, float] | None = None,
) -> None:
    """Writes ``<name>.json``, ``.md`` and ``.png`` to a folder and prints the Markdown.

    Args:
        out: The folder; created if missing.
        name: Name of the files.
        title: Title of the table.
        rows: The table. The first row has all columns; others may lack some.
        versions: Version of each package.
        facts: Further values, one per line; ``'floor, s'`` is drawn into the chart.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = facts or {}
    today = datetime.date.today().isoformat()
    record = dict(title=title, machine=machine(), date=today, versions=versions)
    record |= dict(facts=facts, rows=rows)
    (out / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')
    listed = ', '.join(f'{k} {v}' for k, v in versions.items())
    lines = [f'**{title}.** {machine()}; {today}; {listed}.', '', *table(rows), '']
    lines += [f'- {fact}: {value:.4g}' for fact, value in facts.items()]
    text = '\n'.join(lines) + '\n'
    (out / f'{name}.md').write_text(text)
    chart(out / f'{name}.png', {title: (rows, facts.get('floor, s'))})
    print(text)


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    """A Markdown table, by lines."""
    columns = list(next(iter(rows.values())))
    lines = [f'| | {" | ".join(columns)} |', '|---' * (len(columns) + 1) + '|']
    for row, values in rows.items():
        cells = [f'{values[c]:.4g}' if c in values else '' for c in columns]
        lines.append(f'| {row} | {" | ".join(cells)} |')
    return lines


def chart(path: Path, tables: dict[str, tuple[dict[str, dict], float | None]]) -> None:
    """Draws medians and spreads, one panel per title, with the floor in seconds if given."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    lengths = [len(rows) + 1.5 for rows, _ in tables.values()]
    figure, all_axes = pyplot.subplots(
        len(tables),
        squeeze=False,
        figsize=(7, 0.5 * sum(lengths)),
        height_ratios=lengths,
        layout='constrained',
    )
    for axes, (title, (rows, floor)) in zip(all_axes[:, 0], tables.items(), strict=True):
        timed = {name: row for name, row in rows.items() if 'fastest' in row}
        medians = [row['median, s'] for row in timed.values()]
        spread = [
            [row['median, s'] - row['fastest'] for row in timed.values()],
            [row['slowest'] - row['median, s'] for row in timed.values()],
        ]
        axes.barh(list(timed), medians, xerr=spread, ecolor='grey')
        if floor is not None:
            axes.axvline(floor, color='black', linestyle='--', label='floor')
            axes.legend()
        axes.invert_yaxis()
        axes.set(title=title, xlabel='seconds: median, fastest and slowest')
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

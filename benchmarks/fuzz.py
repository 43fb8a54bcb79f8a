"""Fuzzes the package with invalid inputs and counts the outcomes.

    python benchmarks/fuzz.py --target all --inputs 100000 --seed 0

Hypothesis generates the inputs, which a seed determines. ``--target all`` divides their number
among the targets, with more for fast ones. Prints a table of outcomes, and the shortest input of
every undocumented exception. The exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch
from mmengine.logging import MMLogger

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests/fuzz'))
from harness import Report, Target, fuzz

# By target: its module in tests/fuzz, and its share of the inputs.
TARGETS = {
    'configs': ('hostile_configs', 0.2),
    'checkpoints': ('hostile_checkpoints', 0.5),
    'files': ('hostile_files', 0.27),
    'cli': ('hostile_commands', 0.03),
}
# Inputs per run of Hypothesis, which keeps all inputs of a run in memory.
PIECE = 1000


def run(name: str, count: int, seed: int) -> Report:
    """Fuzzes one target, in several runs of Hypothesis."""
    target: Target = import_module(TARGETS[name][0]).TARGET
    whole, done = Report(), 0
    start = time.perf_counter()
    while done < count:
        report = fuzz(target, min(PIECE, count - done), seed * 10**6 + done)
        number = sum(report.outcomes.values())
        done += number
        whole.outcomes.update(report.outcomes)
        for bug, shown in report.bugs.items():
            whole.bugs[bug] = min(shown, whole.bugs.get(bug, shown), key=len)
        seconds = time.perf_counter() - start
        print(f'{name}: {done} of {count}, {seconds:.0f} s, {len(whole.bugs)} bugs', flush=True)
    return whole


def table(reports: dict[str, tuple[Report, float]]) -> list[str]:
    """A Markdown table of the targets' outcomes, by lines."""
    lines = ['| target | inputs | outcomes | undocumented | seconds |', '|---' * 5 + '|']
    for name, (report, seconds) in reports.items():
        outcomes = Counter(report.outcomes)
        wrong = outcomes.pop('undocumented', 0)
        listed = ', '.join(f'{outcome} {number}' for outcome, number in sorted(outcomes.items()))
        inputs = sum(report.outcomes.values())
        lines.append(f'| {name} | {inputs} | {listed} | {wrong} | {seconds:.0f} |')
    return lines


def main() -> None:
    """Fuzzes the targets; exit code 1 if there was an undocumented exception."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--target', choices=[*TARGETS, 'all'], default='all')
    parser.add_argument('--inputs', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--memory', type=float, default=6.0, help='GiB of address space')
    given = parser.parse_args()
    limit = int(given.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel(logging.CRITICAL)

    counts = {given.target: given.inputs}
    if given.target == 'all':
        counts = {name: round(part * given.inputs) for name, (_, part) in TARGETS.items()}
    reports = {}
    for name, count in counts.items():
        start = time.perf_counter()
        report = run(name, count, given.seed)
        reports[name] = report, time.perf_counter() - start
    print('\n'.join(['', *table(reports)]))
    for name, (report, _) in reports.items():
        for bug, shown in report.bugs.items():
            print(f'\n{name}: {bug}\n  {shown}')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'\nseed {given.seed}; {peak:.2f} GiB of memory at the peak')
    sys.exit(any(report.bugs for report, _ in reports.values()))


if __name__ == '__main__':
    main()

"""Kills a training run repeatedly and compares its result with that of an uninterrupted run.

    python benchmarks/kill_soak.py --kills 20

Alternates SIGKILL and SIGTERM at random times after each start of training, possibly while a
checkpoint is written. There must be enough iterations for all kills. Prints one line per kill, and
whether all weights are bit-equal.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

PROGRAM = Path(__file__).parents[1] / 'tests/engine/long_run.py'


def start(folder: Path, options: list[str]) -> subprocess.Popen:
    """Starts the run in its own process."""
    command = [sys.executable, str(PROGRAM), str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def checkpoints(folder: Path) -> list[str]:
    """The names of all checkpoints, including incomplete ones."""
    return sorted(path.name for path in folder.glob('iter_*'))


def kill_once(folder: Path, options: list[str], number: int, longest: float) -> str:
    """Starts or resumes the run and kills it at a random time; returns what happened."""
    process = start(folder, options)
    begun = time.perf_counter()
    # The log folder is created just before the first iteration.
    logs = len(list(folder.glob('*/vis_data')))
    while process.poll() is None and len(list(folder.glob('*/vis_data'))) == logs:
        time.sleep(0.02)
    time.sleep(random.uniform(0, longest))
    alive = process.poll() is None
    process.send_signal(number)
    code = process.wait()
    seconds = time.perf_counter() - begun
    end = signal.Signals(-code).name if alive and code < 0 else 'too late: the run had ended'
    return f'after {seconds:5.1f} s: {end}; {" ".join(checkpoints(folder))}'


def main() -> None:
    """Runs the soak; exit code 1 if a weight differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--longest', type=float, default=6.0, help='most seconds between kills')
    parser.add_argument('--seed', type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    options = ['--iterations', str(given.iterations)]
    with tempfile.TemporaryDirectory() as root:
        whole, killed = Path(root, 'whole'), Path(root, 'killed')
        killed.mkdir()
        if start(whole, options).wait():
            sys.exit('the uninterrupted run failed')
        for i in range(given.kills):
            number = signal.SIGTERM if i % 2 else signal.SIGKILL
            print(
                f'kill {i + 1:2d} {kill_once(killed, options, number, given.longest)}', flush=True
            )
        if start(killed, options).wait():
            sys.exit('the killed run did not resume')
        ends = [torch.load(folder / 'final.pth') for folder in (whole, killed)]
    different = [
        f'{part}.{key}'
        for part, tensors in ends[0].items()
        for key, tensor in tensors.items()
        if not torch.equal(tensor, ends[1][part][key])
    ]
    count = sum(map(len, ends[0].values()))
    print(f'{count - len(different)} of {count} tensors are bit-equal after {given.kills} kills')
    sys.exit(bool(different))


if __name__ == '__main__':
    main()

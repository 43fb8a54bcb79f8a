"""Common code of the CPU tables: interleaved timing, and each peer's memory in its own process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import floors
import measure
import peers
import torch
from torch import nn

Task = Callable[[nn.Module, torch.Tensor], Callable[[], None]]


def main(name: str, title: str, task: Task, shape: tuple[int, ...], training: bool) -> None:
    """Measures the table, or with ``--memory-of`` the memory of one peer."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument('--peers', nargs='+', choices=peers.PACKAGES, default=list(peers.PACKAGES))
    parser.add_argument('--shape', nargs=4, type=int, default=shape, metavar=('B', '3', 'H', 'W'))
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, default=measure.OUT)
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(options.shape, generator=torch.Generator().manual_seed(0))
    if options.memory_of:
        measure.report_peak(task(peers.build(options.memory_of, 'tiny'), x))
        return
    facts = limits(tuple(options.shape), training)
    models = {p: peers.build(p, 'tiny') for p in peers.PACKAGES if p in options.peers}
    seconds = measure.interleaved(
        {peer: task(model, x) for peer, model in models.items()}, options.rounds
    )
    repeated = ['--threads', str(options.threads), '--shape', *map(str, options.shape)]
    rows = {}
    for peer, taken in seconds.items():
        peak = measure.peak_above_idle(sys.argv[0], [*repeated, '--memory-of', peer])
        rows[peer] = {
            'median, s': taken['median'],
            'fastest': taken['least'],
            'slowest': taken['most'],
            'peak above idle, MB': peak / 1e6,
            'floor / median': facts['floor, s'] / taken['median'],
        }
    if 'ours' in rows and len(rows) > 1:
        rows['best peer / ours'] = {
            column: min(rows[p][column] for p in seconds if p != 'ours') / rows['ours'][column]
            for column in ('median, s', 'peak above idle, MB')
        }
    title = f'{title}, {"×".join(map(str, options.shape))}, float32'
    measure.write(options.out, name, title, rows, peers.versions(list(seconds)), facts)


def limits(shape: tuple[int, ...], training: bool) -> dict[str, float]:
    """Swin-T's FLOPs and bytes, the machine's limits, and the resulting least time."""
    floor = floors.floor('tiny', shape, training)
    peak, bandwidth = measure.matmul_peak(), measure.bandwidth()
    return {
        'GFLOP': floor.flops / 1e9,
        'GB to move': floor.bytes / 1e9,
        'GFLOP/s of a matrix product here': peak / 1e9,
        'GB/s of a copy here': bandwidth / 1e9,
        'floor, s': floor.seconds(peak, bandwidth),
    }

"""What the two CPU tables share: peers in turns, then each one's memory in a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import measure
import peers
import torch
from torch import nn

Task = Callable[[nn.Module, torch.Tensor], Callable[[], None]]


def main(name: str, title: str, task: Task, shape: tuple[int, ...]) -> None:
    """Runs the table, or with ``--memory-of`` one peer for its memory."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument('--peers', nargs='+', default=list(peers.PACKAGES))
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if options.memory_of:
        measure.report_peak(task(peers.build(options.memory_of, 'tiny'), x))
        return
    models = {peer: peers.build(peer, 'tiny') for peer in options.peers}
    functions = {peer: task(model, x) for peer, model in models.items()}
    seconds = measure.interleaved(functions, options.rounds)
    rows = {}
    for peer, taken in seconds.items():
        arguments = ['--threads', str(options.threads), '--memory-of', peer]
        rows[peer] = {
            'median, s': taken['median'],
            'fastest': taken['least'],
            'slowest': taken['most'],
            'peak above idle, MB': measure.peak_above_idle(sys.argv[0], arguments) / 1e6,
        }
    rows['ratio of the best peer to ours'] = {
        column: min(rows[p][column] for p in seconds if p != 'ours') / rows['ours'][column]
        for column in rows['ours']
    }
    measure.write(name, title, rows, peers.versions(options.peers))

"""Trains the demo's detector on images of changing sizes and checks for leaks.

    python benchmarks/soak.py --iterations 2000
    python benchmarks/soak.py --iterations 300 --compile

Height and width of each image are random, so that nearly every batch has a new size. After every
iteration it samples resident memory, memory allocated by malloc, live tensors, threads, open files
and entries of function caches; with ``--compile`` also the number of graphs that torch.compile has
compiled of the backbone. Writes ``soak.json``, ``.md`` and ``.png``. The exit code is 1 if resident
or allocated memory of the last two quarters differs by more than 2 %, or if a constant value grows.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from swin_backbone.tools.configs import read

SIDES = (64, 256)  # of the resized images, in pixels
TOLERANCE = 0.02
# The sampled values, and whether they must not grow at all after the third quarter.
COLUMNS = {
    'resident, MiB': False,
    'allocated, MiB': False,
    'tensors': True,
    'threads': True,
    'open files': True,
    'cache entries': True,
    'graphs': True,
}


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd',
        'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost',
    )]  # fmt: skip


def allocated() -> int:
    """Bytes allocated by malloc and not freed."""
    function = ctypes.CDLL(None).mallinfo2
    function.restype = _Mallinfo
    found = function()
    return found.uordblks + found.hblkhd


def caches() -> list[functools._lru_cache_wrapper]:
    """All function caches of this package."""
    modules = [m for name, m in sys.modules.items() if name.startswith('swin_backbone')]
    found = {id(v): v for m in modules for v in vars(m).values()
             if isinstance(v, functools._lru_cache_wrapper)}  # fmt: skip
    return list(found.values())


class Watch(Hook):
    """Takes a sample after every iteration."""

    priority = 'LOWEST'

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled
        self.samples: list[dict[str, float]] = []
        self.sizes: set[tuple[int, ...]] = set()
        self.graphs = 0

    def before_train(self, runner: Any) -> None:
        """Optionally compiles the backbone, and records the sizes of its inputs."""
        backbone = runner.model.backbone
        backbone.register_forward_pre_hook(lambda _, args: self.sizes.add(tuple(args[0].shape)))
        if self.compiled:
            inner = backbone.forward
            backbone.forward = torch.compile(inner, fullgraph=True, dynamic=True, backend=self.made)
        self.start = time.perf_counter()

    def made(self, graph: torch.fx.GraphModule, inputs: list) -> Any:
        """Counts a graph and compiles it with Inductor."""
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        return compile_fx(graph, inputs)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Takes the sample."""
        self.samples.append(
            {
                'resident, MiB': measure.status('VmRSS') / 2**20,
                'allocated, MiB': allocated() / 2**20,
                'tensors': sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()),
                'threads': threading.active_count(),
                'open files': len(os.listdir('/proc/self/fd')),
                'cache entries': sum(cache.cache_info().currsize for cache in caches()),
                'graphs': self.graphs,
                'seconds': time.perf_counter() - self.start,
                'sizes': len(self.sizes),
            }
        )
        done = len(self.samples)
        if done % 100 == 0:
            shown = ' '.join(f'{k} {v:.0f};' for k, v in self.samples[-1].items())
            print(f'{done}: {shown}', flush=True)


def run(folder: Path, iterations: int, batch: int, compiled: bool) -> Watch:
    """Trains in this process."""
    config = read('demo_mask_rcnn_shapes')
    config.work_dir = str(folder / 'run')
    config.log_level = 'WARNING'
    # Both sides are independent.
    resize = dict(type='RandomChoiceResize', keep_ratio=False, scales=[
        (w, h) for w in range(SIDES[0], SIDES[1] + 1, 3) for h in range(SIDES[0], SIDES[1] + 1, 3)
    ])  # fmt: skip
    config.model.data_preprocessor.pad_size_divisor = 1
    loader = config.train_dataloader
    loader.batch_size = batch
    loader.dataset.data_root = str(folder / 'shapes') + '/'
    loader.dataset.pipeline.insert(2, resize)
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        config[name] = None
    for name in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        config[name] = None
    config.param_scheduler = config.param_scheduler[:1]  # a constant rate after the warm-up
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations)
    config.default_hooks.logger.interval = 10**9
    config.default_hooks.checkpoint.interval = max(iterations // 8, 1)
    watch = Watch(compiled)
    from mmengine.registry import RUNNERS

    runner: Runner = RUNNERS.get(config.get('runner_type', 'Runner')).from_cfg(config)
    runner.register_hook(watch)
    runner.train()
    return watch


def quarters(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The median of each value in each quarter of the run."""
    size = len(samples) // 4
    rows = {}
    for i in range(4):
        part = samples[i * size : (i + 1) * size]
        rows[f'{i * size + 1}–{(i + 1) * size}'] = {
            column: statistics.median(sample[column] for sample in part) for column in COLUMNS
        }
    return rows


def faults(rows: dict[str, dict[str, float]]) -> list[str]:
    """Values that changed too much from the third quarter to the last."""
    *_, before, last = rows.values()
    return [
        f'{column}: from {before[column]:.0f} to {last[column]:.0f}'
        for column, constant in COLUMNS.items()
        if last[column] > before[column] * (1 if constant else 1 + TOLERANCE)
        or (not constant and last[column] < before[column] * (1 - TOLERANCE))
    ]


def chart(path: Path, samples: list[dict[str, float]]) -> None:
    """Draws memory over the iterations."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout='constrained')
    for column in ('resident, MiB', 'allocated, MiB'):
        axes.plot([sample[column] for sample in samples], label=column.split(',')[0], linewidth=1)
    axes.set(xlabel='iteration', ylabel='MiB', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Runs the soak; exit code 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--out', type=Path, default=measure.OUT)
    given = parser.parse_args()
    if given.iterations < 8:
        parser.error('--iterations must be at least 8')
    with tempfile.TemporaryDirectory() as folder:
        watch = run(Path(folder), given.iterations, given.batch, given.compile)
    rows = quarters(watch.samples)
    name = 'soak_compiled' if given.compile else 'soak'
    given.out.mkdir(parents=True, exist_ok=True)
    record = dict(machine=measure.machine(), torch=torch.__version__, rows=rows)
    record |= dict(sizes=len(watch.sizes), seconds=watch.samples[-1]['seconds'])
    (given.out / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')
    text = '\n'.join(measure.table(rows))
    (given.out / f'{name}.md').write_text(text + '\n')
    chart(given.out / f'{name}.png', watch.samples)
    print(text)
    print(f'{len(watch.sizes)} sizes of batches; {record["seconds"]:.0f} s')
    found = faults(rows)
    print('\n'.join(found) or 'nothing grew')
    sys.exit(bool(found))


if __name__ == '__main__':
    main()

"""The demo's detector trained from one seed on each backend: loss curves must stay together.

    python benchmarks/convergence.py [--iterations 200] [--backends reference sdpa auto]

``auto`` is what runs by default; on a CPU, blocks in one piece. Rounding differs between backends,
and a detector's choice of proposals amplifies it: the first ten losses must agree within 1 %, the
mean of the last quarter within 10 %. Writes convergence.json, .md and .png, and fails where curves
part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from swin_backbone.ops.backends import BACKENDS, use_backend

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'demo_mask_rcnn_shapes.py'
SCENES = dict(training=400, validation=1)
EARLY, EARLY_BAND, LATE_BAND = 10, 0.01, 0.1


class Recorder(Hook):
    """Keeps every iteration's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(float(outputs['loss']))


def losses(backend: str, iterations: int, batch_size: int, folder: Path) -> list[float]:
    """Trains the detector on scenes drawn into ``folder``; the loss of each iteration."""
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(
        {
            'train_dataloader.batch_size': batch_size,
            'train_dataloader.dataset.data_root': str(folder / 'scenes'),
            'train_dataloader.dataset.scenes': SCENES,
            'train_cfg.max_iters': iterations,
            'default_hooks.checkpoint': None,
            'vis_backends': [],
            'visualizer.vis_backends': [],
            'log_level': 'WARNING',
            'work_dir': str(folder / backend),
            'experiment_name': f'{folder.name}_{backend}',
        }
    )
    # The warm-up alone: what follows it is for a run of another length.
    config.param_scheduler = config.param_scheduler[:1]
    for kind in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            config[f'{kind}_{part}'] = None
    with use_backend(backend):
        runner, recorder = Runner.from_cfg(config), Recorder()
        runner.register_hook(recorder)
        runner.train()
    return recorder.losses


def deviations(curve: Sequence[float], exact: Sequence[float]) -> tuple[float, float]:
    """Largest of the first ten iterations, and of the last quarter's mean, as parts of exact."""
    early = max(abs(a - b) / b for a, b in zip(curve[:EARLY], exact[:EARLY], strict=True))
    quarter = max(len(exact) // 4, 1)
    late, expected = (statistics.mean(c[-quarter:]) for c in (curve, exact))
    return early, abs(late - expected) / expected


def write(out: Path, curves: dict[str, list[float]], rows: dict[str, dict[str, float]]) -> None:
    """Curves and table."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    out.mkdir(parents=True, exist_ok=True)
    report = dict(machine=measure.machine(), rows=rows, curves=curves)
    (out / 'convergence.json').write_text(json.dumps(report, indent=1) + '\n')
    (out / 'convergence.md').write_text('\n'.join(measure.table(rows)) + '\n')
    figure, axes = pyplot.subplots(figsize=(7, 4), layout='constrained')
    for backend, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=backend)
    axes.set(title="The demo's detector from one seed", xlabel='iteration', ylabel='loss')
    axes.legend()
    figure.savefig(out / 'convergence.png', dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--iterations', type=int, default=200)
    parser.add_argument('--batch-size', type=int, default=8)
    names = [*BACKENDS, 'auto']
    parser.add_argument(
        '--backends', nargs='+', default=['reference', 'sdpa', 'auto'], choices=names
    )
    parser.add_argument('--out', type=Path, default=measure.OUT)
    options = parser.parse_args()
    backends = ['reference', *(b for b in options.backends if b != 'reference')]
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            backend: losses(backend, options.iterations, options.batch_size, Path(folder))
            for backend in backends
        }
    rows, together = {}, True
    for backend, curve in curves.items():
        early, late = deviations(curve, curves['reference'])
        together &= early <= EARLY_BAND and late <= LATE_BAND
        rows[backend] = {'first loss': curve[0], 'last loss': curve[-1]}
        rows[backend] |= {'first ten, off by at most': early, 'last quarter, mean off by': late}
    write(options.out, curves, rows)
    print('\n'.join(measure.table(rows)))
    if not together:
        sys.exit('The curves part.')


if __name__ == '__main__':
    main()

"""Trains the demo's detector from one seed on each backend and compares the loss curves.

    python benchmarks/convergence.py [--iterations 200] [--backends reference sdpa auto control]

``auto`` is the default; on a CPU it runs fused blocks. Backends differ by rounding errors, which a
detector's selection of proposals amplifies. ``control`` shows this effect: it is the reference with
relative perturbations of about 1e-7 of the backbone's weights. The first two losses must agree
within 1e-4, the first ten and the mean of the last quarter within 10 %. Writes convergence.json,
.md and .png, and fails if the curves diverge.
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
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from swin_backbone.ops.backends import BACKENDS, use_backend

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'demo_mask_rcnn_shapes.py'
SCENES = dict(training=400, validation=1)
FIRST_BAND, BAND = 1e-4, 0.1


class Recorder(Hook):
    """Records the loss of every iteration; can perturb the backbone's weights before."""

    def __init__(self, deviation: float = 0.0) -> None:
        self.deviation = deviation
        self.losses: list[float] = []

    def before_train(self, runner) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in runner.model.backbone.parameters() if self.deviation else ():
                weight.mul_(1 + self.deviation * torch.randn(weight.shape, generator=generator))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(float(outputs['loss']))


def losses(backend: str, iterations: int, batch_size: int, folder: Path) -> list[float]:
    """Trains the detector on scenes in ``folder`` and returns the loss of each iteration."""
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
    # Only the warm-up: the rest of the schedule is for a run of another length.
    config.param_scheduler = config.param_scheduler[:1]
    for kind in ('val', 'test'):
        for part in ('cfg', 'dataloader', 'evaluator'):
            config[f'{kind}_{part}'] = None
    control = backend == 'control'
    with use_backend('reference' if control else backend):
        runner, recorder = Runner.from_cfg(config), Recorder(1e-7 if control else 0.0)
        runner.register_hook(recorder)
        runner.train()
    return recorder.losses


def deviations(curve: Sequence[float], exact: Sequence[float]) -> tuple[float, float, float]:
    """Largest relative errors of the first two and ten losses, and of the last quarter's mean."""
    each = [abs(a - b) / b for a, b in zip(curve, exact, strict=True)]
    quarter = max(len(exact) // 4, 1)
    late, expected = (statistics.mean(c[-quarter:]) for c in (curve, exact))
    return max(each[:2]), max(each[:10]), abs(late - expected) / expected


def write(out: Path, curves: dict[str, list[float]], rows: dict[str, dict[str, float]]) -> None:
    """Writes the curves and the table."""
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
    names = [*BACKENDS, 'auto', 'control']
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
        first, early, late = deviations(curve, curves['reference'])
        # The control shows the effect of rounding and cannot fail.
        together &= backend == 'control' or (first <= FIRST_BAND and max(early, late) <= BAND)
        rows[backend] = {'first loss': curve[0], 'last loss': curve[-1]}
        rows[backend] |= {'first two off by at most': first, 'first ten': early}
        rows[backend] |= {'mean of the last quarter off by': late}
    write(options.out, curves, rows)
    print('\n'.join(measure.table(rows)))
    if not together:
        sys.exit('The curves diverge.')


if __name__ == '__main__':
    main()

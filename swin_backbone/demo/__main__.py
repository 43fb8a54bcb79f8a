"""``python -m swin_backbone.demo``: trains and tests a detector and a segmentor from scratch."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

try:
    import click
    import torch
    from rich.console import Console
    from rich.table import Table

    from .jobs import Job, bar, write_json
    from .pictures import draw_detections, draw_losses, draw_segments
    from .scenes import prepare
except ModuleNotFoundError as error:
    sys.exit(f"the demo needs {error.name}: pip install 'swin_backbone[demo]'")

# By metric: the job, the framework's name of the metric, a factor, and a full run's least value.
METRICS = {
    'box AP': ('detector', 'coco/bbox_mAP', 1, 0.50),
    'mask AP': ('detector', 'coco/segm_mAP', 1, 0.45),
    'mIoU': ('segmentor', 'mIoU', 0.01, 0.70),
}
NEVER = 10**6  # an iteration beyond the end of any training
QUICK = dict(training=24, validation=8)
QUICK_ITERATIONS = 4
DATA_ROOT = 'data/shapes'  # as in the configs
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@click.command()
@click.option('--fresh', is_flag=True, help='Train again, whatever is there.')
@click.option('--quick', is_flag=True, help='Few scenes and iterations: is everything in place?')
@click.option(
    '--work-dir',
    type=click.Path(path_type=Path, file_okay=False),
    help='Where the results go.  [default: work_dirs/demo, or work_dirs/demo-quick]',
)
@click.option(
    '--data-root',
    type=click.Path(path_type=Path, file_okay=False),
    help='Where the scenes go.  [default: data/shapes, or data/shapes-quick]',
)
def main(fresh: bool, quick: bool, work_dir: Path | None, data_root: Path | None) -> None:
    """Trains and tests a little Swin detector and a little Swin segmentor on drawn scenes."""
    _check_installed()
    # On SIGTERM, end the running commands as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(soft_wrap=True)
    work_dir = work_dir or Path('work_dirs', 'demo-quick' if quick else 'demo')
    data_root = data_root or Path(DATA_ROOT + '-quick' if quick else DATA_ROOT)
    scenes = QUICK if quick else {}
    takes = (
        'a minute' if quick else 'five minutes on two CPU cores; what an earlier run left is used'
    )
    console.print(f'Draws scenes, trains and tests two models on them: about {takes}.')

    start = time.monotonic()
    seconds: dict[str, float] = {}
    with _timed(seconds, 'scenes'):
        console.print(f'\n[bold]Scenes[/] in {data_root}')
        try:
            prepare(data_root, **scenes)
        except OSError as error:
            raise click.ClickException(f'the scenes cannot be written: {error}') from error
    jobs = {job.name: job for job in _jobs(work_dir, data_root, scenes, quick)}
    if fresh:
        for job in jobs.values():
            job.forget()
    metrics = _run(list(jobs.values()), console, seconds)

    pictures = _draw(work_dir, data_root, jobs)
    results = {
        name: round(metrics[job][key] * scale, 4) for name, (job, key, scale, _) in METRICS.items()
    }
    seconds['all'] = round(time.monotonic() - start, 1)
    write_json(work_dir / 'results.json', {**results, 'seconds': seconds})
    console.print(_table(results, seconds['all']))
    console.print('Pictures:', ', '.join(map(str, pictures)), highlight=False)


def _check_installed() -> None:
    modules = {'mmcv': 'mmcv', 'mmdet': 'mmdet', 'mmseg': 'mmsegmentation', 'mim': 'openmim'}
    missing = [name for module, name in modules.items() if not importlib.util.find_spec(module)]
    if missing:
        extras = 'demo,lite' if 'mmcv' in missing else 'demo'
        raise click.ClickException(
            f'the demo needs {", ".join(missing)}: pip install "swin_backbone[{extras}]"'
        )


def _jobs(work_dir: Path, data_root: Path, scenes: dict[str, int], quick: bool) -> list[Job]:
    # No validation in training, as a test follows.
    options: dict[str, object] = {'train_cfg.val_begin': NEVER}
    for loader in LOADERS:
        if data_root != Path(DATA_ROOT):
            options[f'{loader}.dataset.data_root'] = data_root.as_posix()
        options |= {f'{loader}.dataset.scenes.{key}': value for key, value in scenes.items()}
    if quick:
        options |= {
            'train_cfg.max_iters': QUICK_ITERATIONS,
            'param_scheduler': [],
            'train_dataloader.batch_size': 2,
            'default_hooks.logger.interval': 1,
        }
    truth = data_root / 'annotations' / 'instances_validation.json'
    evaluators: dict[str, object] = {}
    if data_root != Path(DATA_ROOT):
        evaluators = {f'{split}_evaluator.ann_file': truth.as_posix() for split in ('val', 'test')}
    detector = Job(
        name='detector',
        framework='mmdet',
        config=_config('demo_mask_rcnn_shapes.py'),
        folder=work_dir / 'detector',
        predictions='predictions.pkl',
        options={**options, **evaluators},
    )
    segmentor = Job(
        name='segmentor',
        framework='mmseg',
        config=_config('demo_upernet_shapes.py'),
        folder=work_dir / 'segmentor',
        predictions='predictions',
        options=options,
    )
    return [detector, segmentor]


def _run(
    jobs: list[Job], console: Console, seconds: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Trains and tests the jobs in parallel, with the cores divided among them.

    For models of this size, two processes of one thread are faster than one of two threads.

    Returns:
        The metrics of each job by its name.

    Raises:
        click.ClickException: A command failed; the others were killed.
    """

    def run(job: Job) -> dict[str, float]:
        with _timed(seconds, f'{job.name} training'):
            job.train(progress)
        with _timed(seconds, f'{job.name} test'):
            return job.test(progress)

    for job in jobs:
        job.threads = max(torch.get_num_threads() // len(jobs), 1)
    with bar(console) as progress, ThreadPoolExecutor(len(jobs)) as pool:
        runs = {pool.submit(run, job): job.name for job in jobs}
        try:
            return {runs[ended]: ended.result() for ended in as_completed(runs)}
        except BaseException:
            for job in jobs:
                job.stop()
            raise


def _config(name: str) -> Path:
    """The path of a config in the installed package or in the checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / 'configs', package.parent / 'configs'):
        if (folder / name).exists():
            return folder / name
    raise click.ClickException(f'{name} is not part of this installation of swin_backbone')


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)


def _draw(work_dir: Path, data_root: Path, jobs: dict[str, Job]) -> list[Path]:
    detections, segments, losses = (
        work_dir / f'{name}.png' for name in ('detections', 'segments', 'losses')
    )
    draw_detections(data_root, jobs['detector'].found, detections)
    draw_segments(data_root, jobs['segmentor'].found, segments)
    draw_losses({name: job.losses() for name, job in jobs.items()}, losses)
    return [detections, segments, losses]


def _table(results: dict[str, float], seconds: float) -> Table:
    table = Table(title='On held-out scenes', caption=f'{seconds / 60:.1f} minutes')
    table.add_column('metric')
    table.add_column('value', justify='right')
    table.add_column('a full run reaches', justify='right')
    for name, value in results.items():
        table.add_row(name, f'{value:.3f}', f'{METRICS[name][-1]:.2f}')
    return table


if __name__ == '__main__':
    main()

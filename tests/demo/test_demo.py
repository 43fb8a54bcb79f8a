"""The demo's configs build, and its runner trains, tests, reuses, resumes and complains."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import cv2
import pytest
import torch
from click.testing import CliRunner
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from rich.console import Console
from rich.progress import Progress

from swin_backbone import SwinTransformer
from swin_backbone.demo.__main__ import _run, main
from swin_backbone.demo.jobs import Job, bar, mims_name, write_json
from swin_backbone.demo.scenes import SceneSet

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mim')

CONFIGS = Path(__file__).parents[2] / 'configs'
QUIET = bar(Console(quiet=True))


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'swin_backbone.demo', '--quick', *options],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('demo')


@pytest.fixture(scope='module')
def first(folder) -> subprocess.CompletedProcess:
    return run_demo(folder)


@pytest.mark.parametrize('name', ['mask_rcnn', 'upernet'])
def test_config_builds_its_model(name):
    config = Config.fromfile(CONFIGS / f'demo_{name}_shapes.py')
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    assert type(model.backbone) is SwinTransformer
    assert 1e6 < sum(weight.numel() for weight in model.parameters()) < 5e6


@pytest.mark.parametrize(('name', 'classes'), [('mask_rcnn', 4), ('upernet', 5)])
def test_dataset_draws_itself(name, classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(CONFIGS / f'demo_{name}_shapes.py')
    init_default_scope(config.default_scope)
    settings = config.train_dataloader.dataset
    settings.scenes = dict(training=5, validation=1)
    dataset = DATASETS.build(settings)
    assert Path('data/shapes/manifest.json').exists()
    assert len(dataset) == 5
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == classes
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 128, 128)
    if name == 'mask_rcnn':
        truth = sample['data_samples'].gt_instances
        scene = SceneSet().scene('training', 0)
        assert sorted(truth.labels.tolist()) == sorted(scene.labels)
    else:
        segments = sample['data_samples'].gt_sem_seg.data
        expected = torch.from_numpy(SceneSet().scene('training', 0).segments - 1)
        flipped = sample['data_samples'].flip
        assert torch.equal(segments[0].int(), (expected.flip(1) if flipped else expected).int())


def test_quick_run_trains_and_tests_both(folder, first):
    assert first.returncode == 0, first.stdout + first.stderr
    out = folder / 'work_dirs' / 'demo-quick'
    results = json.loads((out / 'results.json').read_text())
    for metric in ('box AP', 'mask AP', 'mIoU'):
        assert 0 <= results[metric] <= 1
        assert re.search(rf'{metric}\W+{results[metric]:.3f}', first.stdout)
    for verb in ('train', 'test'):
        for framework in ('mmdet', 'mmseg'):
            assert f'$ mim {verb} {mims_name(framework)} ' in first.stdout
    for name in ('detections', 'segments', 'losses'):
        picture = cv2.imread(str(out / f'{name}.png'))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 10
    for name in ('detector', 'segmentor'):
        assert len(list((out / name).glob('iter_*.pth'))) >= 1


def results_of(folder: Path) -> dict[str, float]:
    results = json.loads((folder / 'work_dirs' / 'demo-quick' / 'results.json').read_text())
    return {metric: results[metric] for metric in ('box AP', 'mask AP', 'mIoU')}


def test_second_run_reuses_the_training(folder, first, monkeypatch):
    """The tests' commands are not run here, but leave what they left the first time."""
    out = folder / 'work_dirs' / 'demo-quick'
    before, verbs = results_of(folder), []
    for name in ('detector', 'segmentor'):
        shutil.copytree(out / name / 'test', folder / 'tested' / name)

    def mim(job: Job, progress: Progress, verb: str, *given) -> None:
        verbs.append((job.name, verb))
        shutil.copytree(folder / 'tested' / job.name, job.folder / 'test')

    monkeypatch.setattr(Job, '_mim', mim)
    monkeypatch.setattr(signal, 'signal', lambda *given: None)
    monkeypatch.chdir(folder)
    second = CliRunner().invoke(main, ['--quick'])
    assert second.exit_code == 0, second.output
    assert second.output.count('trained already') == 2
    assert sorted(verbs) == [('detector', 'test'), ('segmentor', 'test')]
    assert results_of(folder) == before


@pytest.mark.slow
def test_second_run_tests_as_the_first(folder, first):
    before = results_of(folder)
    second = run_demo(folder)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count('trained already') == 2
    assert 'mim train' not in second.stdout
    assert results_of(folder) == before


@pytest.fixture
def job(tmp_path) -> Job:
    """A job whose config is at hand, and that was trained."""
    config = tmp_path / 'config.py'
    config.write_text('lr = 1\n')
    job = Job('model', 'mmdet', config, tmp_path / 'work', 'predictions.pkl')
    job.folder.mkdir()
    torch.save({'state_dict': {'weight': torch.ones(1000)}}, job.folder / 'iter_5.pth')
    (job.folder / 'last_checkpoint').write_text('elsewhere/run/iter_5.pth')
    write_json(job.record, {'fingerprint': job.fingerprint, 'finished': True})
    return job


@pytest.fixture
def commands(monkeypatch) -> list[tuple[str, ...]]:
    """The mim commands that a job asked for, which are not run."""
    commands = []
    monkeypatch.setattr(Job, '_mim', lambda job, progress, *given: commands.append(given))
    return commands


def test_finished_training_is_not_repeated(job, commands):
    job.train(QUIET)
    assert commands == []


def test_changed_config_trains_from_the_start(job, commands):
    job.config.write_text('lr = 2\n')
    job.train(QUIET)
    assert commands == [('train', '--work-dir', str(job.folder))]
    assert not (job.folder / 'iter_5.pth').exists()


def test_changed_option_trains_from_the_start(job, commands):
    job.options = {'lr': 3}
    job.train(QUIET)
    assert commands == [('train', '--work-dir', str(job.folder))]


def test_interrupted_training_goes_on(job, commands):
    write_json(job.record, {'fingerprint': job.fingerprint, 'finished': False})
    job.train(QUIET)
    assert commands == [('train', '--work-dir', str(job.folder), '--resume')]
    job.train(QUIET)
    assert len(commands) == 1


def test_a_folder_of_other_things_is_left_alone(job, commands):
    job.record.unlink()
    with pytest.raises(click.ClickException, match='work'):
        job.train(QUIET)
    assert (job.folder / 'iter_5.pth').exists()
    assert commands == []


def test_half_written_checkpoint_is_not_used(job, commands):
    checkpoint = job.folder / 'iter_5.pth'
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    assert job.checkpoint is None
    job.train(QUIET)
    assert commands == [('train', '--work-dir', str(job.folder))]


def test_failing_command_says_so(tmp_path):
    """A place for data that is none: the first command stops there, and so does the demo."""
    (tmp_path / 'data').write_text('in the way')
    result = run_demo(tmp_path)
    assert result.returncode != 0
    assert 'data' in result.stderr


def test_failure_of_one_job_ends_the_other(tmp_path, monkeypatch):
    codes = {'detector': 'raise SystemExit(3)', 'segmentor': 'import time; time.sleep(60)'}
    jobs = [Job(name, 'mmdet', tmp_path, tmp_path / name, '') for name in codes]

    def train(job: Job, progress: Progress) -> None:
        with job._started([sys.executable, '-c', codes[job.name]]) as process:
            pass
        if process.returncode:
            raise click.ClickException(f'{job.name}: {process.returncode}')

    monkeypatch.setattr(Job, 'train', train)
    monkeypatch.setattr(Job, 'test', lambda job, progress: {})
    start = time.monotonic()
    with pytest.raises(click.ClickException, match='detector: 3'):
        _run(jobs, Console(quiet=True), {})
    assert time.monotonic() - start < 30
    assert jobs[1]._process.returncode == -signal.SIGKILL
    with pytest.raises(click.ClickException, match=f'segmentor: {-signal.SIGKILL}'):
        train(jobs[1], QUIET)  # as one that had not begun when the other failed


def test_failing_training_shows_the_end_of_its_log(tmp_path):
    config = tmp_path / 'broken.py'
    config.write_text("raise ValueError('this config is broken')\n")
    job = Job('model', 'mmdet', config, tmp_path / 'work', 'predictions.pkl')
    with pytest.raises(click.ClickException, match='this config is broken'):
        job._mim(QUIET, 'train')
    assert 'this config is broken' in (job.folder / 'train.log').read_text()

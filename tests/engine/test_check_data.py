"""Missing data is found before anything else, all of it, with the option that sets each path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.runner import Runner

from swin_backbone.engine.check_data import DataCheckingRunner, check_data


def dataset(root: Path | str) -> dict:
    return dict(data_root=str(root), ann_file='boxes.json', data_prefix=dict(img='images', seg=''))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'boxes.json').write_text('{}')
    return tmp_path


def config(data: dict, **evaluator) -> ConfigDict:
    return ConfigDict(
        train_dataloader=dict(dataset=data),
        val_dataloader=dict(dataset=data),
        val_evaluator=dict(type='CocoMetric', **evaluator),
    )


def message(*args) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        check_data(*args)
    return str(caught.value)


def test_passes_what_is_there(root):
    check_data(config(dataset(root), ann_file=str(root / 'boxes.json')), 'train', 'val')


def test_names_a_missing_root_once_and_how_to_set_it(tmp_path):
    text = message(config(dataset(tmp_path / 'coco')), 'train')
    assert f"train_dataloader.dataset.data_root = '{tmp_path / 'coco'}'" in text
    assert text.count(str(tmp_path / 'coco')) == 1 and '--cfg-options' in text
    assert str(Path.cwd()) in text


def test_lists_all_that_is_missing(root):
    (root / 'boxes.json').unlink()
    (root / 'images').rmdir()
    text = message(config(dataset(root), ann_file=str(root / 'boxes.json')), 'train', 'val')
    for option, path in [
        ('train_dataloader.dataset.ann_file', root / 'boxes.json'),
        ('train_dataloader.dataset.data_prefix.img', root / 'images'),
        ('val_dataloader.dataset.ann_file', root / 'boxes.json'),
        ('val_dataloader.dataset.data_prefix.img', root / 'images'),
        ('val_evaluator.ann_file', root / 'boxes.json'),
    ]:
        assert f'{option} = {str(path)!r}' in text
    assert 'prefix.seg' not in text


def test_knows_folders_that_are_a_string(root):
    data = dict(data_root=str(root), data_prefix='images')
    check_data(config(data), 'train')
    text = message(config(dict(data, data_prefix='absent')), 'train')
    assert f"train_dataloader.dataset.data_prefix = '{root / 'absent'}'" in text


def test_asks_only_for_the_phases_that_run(root):
    cfg = config(dataset(root), ann_file='absent.json')
    check_data(cfg, 'train')
    check_data(cfg, 'test')  # it has none
    assert 'val_evaluator.ann_file' in message(cfg, 'val')


@pytest.mark.parametrize(
    'wrap, option',
    [
        (lambda data: dict(type='RepeatDataset', dataset=data), 'dataset.dataset.data_root'),
        (lambda data: dict(type='ConcatDataset', datasets=[data]), 'dataset.datasets.0.data_root'),
    ],
)
def test_looks_into_wrapped_datasets(wrap, option):
    text = message(config(wrap(dataset('nowhere'))), 'train')
    assert f"train_dataloader.{option} = 'nowhere'" in text


def test_looks_into_lists_of_evaluators(root):
    cfg = config(dataset(root))
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file='absent.json')]
    assert 'val_evaluator.0.ann_file' in message(cfg, 'val')


@pytest.mark.parametrize(
    'data',
    [
        dict(dataset('s3://bucket/coco')),
        dict(dataset('coco'), backend_args=dict(backend='petrel')),
        dict(ann_file='https://example.org/boxes.json'),
        dict(type='Generated', data_root=None, ann_file='', data_prefix=None),
    ],
)
def test_passes_over_what_is_not_in_the_file_system(data):
    check_data(config(data), 'train')


def test_passes_over_loaders_that_are_built():
    check_data(dict(train_dataloader=object(), val_dataloader=None), 'train', 'val')


def test_absolute_paths_stand_by_themselves(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('elsewhere')
    check_data(config(dict(dataset(root), data_prefix=dict(img=str(elsewhere)))), 'train')


@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
def test_runner_checks_before_mmengine_starts(monkeypatch, root, phase):
    started = []
    monkeypatch.setattr(Runner, phase, lambda self: started.append(phase))
    runner = object.__new__(DataCheckingRunner)
    runner._val_loop = object()
    runner.cfg = ConfigDict({f'{phase}_dataloader': dict(dataset=dataset('nowhere'))})
    with pytest.raises(FileNotFoundError, match=f'{phase}_dataloader.dataset.data_root'):
        getattr(runner, phase)()
    assert not started
    runner.cfg = ConfigDict({f'{phase}_dataloader': dict(dataset=dataset(root))})
    getattr(runner, phase)()
    assert started == [phase]


def test_runner_checks_validation_before_it_trains(monkeypatch, root):
    monkeypatch.setattr(Runner, 'train', lambda self: 'trained')
    runner = object.__new__(DataCheckingRunner)
    runner._val_loop, runner.cfg = object(), config(dataset(root), ann_file='absent.json')
    with pytest.raises(FileNotFoundError, match=r'val_evaluator\.ann_file'):
        runner.train()
    runner._val_loop = None
    assert runner.train() == 'trained'


def test_says_how_to_install_instaboost(root, monkeypatch):
    monkeypatch.setitem(sys.modules, 'instaboostfast', None)  # as if it were not installed
    cfg = config(dataset(root) | dict(pipeline=[dict(type='InstaBoost')]))
    with pytest.raises(ImportError, match=r'pip install .swin_backbone\[instaboost\]') as caught:
        check_data(cfg, 'train')
    assert 'SWIN_INSTABOOST=off' in str(caught.value)
    check_data(config(dataset(root) | dict(pipeline=[dict(type='RandomFlip')])), 'train')

"""Missing data is found before anything else, all of it, with the option that sets each path."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.runner import Runner

from swin_backbone import configs_dir
from swin_backbone.engine.check_data import DataCheckingRunner, check_any_data, check_data
from swin_backbone.engine.resume import ResumingFlexibleRunner, ResumingRunner


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


# --- before anything is built --------------------------------------------------------------------


@pytest.mark.parametrize('kind', [DataCheckingRunner, ResumingRunner, ResumingFlexibleRunner])
def test_runner_checks_before_it_is_built(monkeypatch, root, kind):
    built = []
    monkeypatch.setattr(kind, '__init__', lambda self, **_: built.append(kind))
    cfg = ConfigDict(model=dict(), work_dir='.', **config(dataset('nowhere')))
    with pytest.raises(FileNotFoundError, match='val_dataloader'):
        kind.from_cfg(cfg)
    assert not built
    kind.from_cfg(ConfigDict(model=dict(), work_dir='.', **config(dataset(root))))
    assert built == [kind]


def test_data_for_a_part_is_enough_to_be_built(root):
    """Whoever tests on data of their own may have no others."""
    there, absent = (dict(dataset=dataset(place)) for place in (root, 'nowhere'))
    everything = dict.fromkeys(('train_dataloader', 'val_dataloader', 'test_dataloader'), absent)
    with pytest.raises(FileNotFoundError):
        check_any_data(everything)
    check_any_data(dict(everything, test_dataloader=there))
    check_any_data(dict(everything, val_dataloader=there))
    with pytest.raises(FileNotFoundError):  # training validates, too
        check_any_data(dict(everything, train_dataloader=there))
    check_any_data(dict(train_dataloader=there, val_dataloader=None))
    check_any_data({})


@pytest.mark.parametrize('value', [None, '/somewhere'])
def test_names_the_variable_that_the_folder_comes_from(monkeypatch, value):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    if value:
        monkeypatch.setenv('COCO_ROOT', value)
    folder = value or 'data/coco'
    cfg = config(dataset(folder))
    cfg.data_roots = dict(COCO_ROOT=folder)
    text = message(cfg, 'train')
    state = 'set' if value else 'not set'
    assert f'{folder!r} comes from the environment variable COCO_ROOT, which is {state}: ' in text
    assert 'export COCO_ROOT=' in text and '--cfg-options' in text


def test_names_no_variable_for_other_folders(tmp_path):
    cfg = config(dataset(tmp_path / 'mine'))
    cfg.data_roots = dict(COCO_ROOT='data/coco')
    text = message(cfg, 'train')
    assert 'COCO_ROOT' not in text and 'train_dataloader.dataset.data_root' in text
    # A file missing below a folder that the variable names.
    cfg = config(dataset(tmp_path))
    cfg.data_roots = dict(COCO_ROOT=str(tmp_path))
    assert 'COCO_ROOT' in message(cfg, 'train')


def test_configs_tell_which_variable_their_folder_comes_from():
    files = {path: path.read_text() for path in configs_dir().rglob('*.py')}
    found = {
        path: named[1]
        for path, text in files.items()
        if (named := re.search(r"^data_root = '{{\$(\w+):", text, re.MULTILINE))
    }
    assert set(found.values()) == {'COCO_ROOT', 'ADE20K_ROOT', 'IMAGENET_ROOT'}
    for path, variable in found.items():
        assert f'data_roots = dict({variable}=data_root)' in files[path], path

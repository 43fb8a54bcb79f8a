"""``swin-backbone configs`` lists, shows and copies what mmengine reads."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from mmengine.config import Config

from swin_backbone import configs_dir
from swin_backbone.cli.commands import commands
from swin_backbone.tools.configs import shipped

SCOPES = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ['configs', *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def same(one: Config, other: Config) -> bool:
    return one.to_dict() == other.to_dict()


def test_list_has_every_config():
    listed = json.loads(run('list', '--json').stdout)
    files = {path.stem for path in configs_dir().glob('*.py')} - {'__init__'}
    assert {entry['name'] for entry in listed} == files
    for entry in listed:
        assert len(entry['title']) > 10 and '#' not in entry['title'], entry
        assert entry['path'] == str(configs_dir() / f'{entry["name"]}.py')
        assert entry['task'] in SCOPES.values(), entry


@pytest.mark.parametrize(
    'name', ['cascade_swin_b_coco', 'demo_mask_rcnn_shapes', 'upernet_swin_l_ade20k']
)
def test_task_is_that_of_the_scope(name):
    listed = {entry['name']: entry for entry in json.loads(run('list', '--json').stdout)}
    scope = Config.fromfile(shipped()[name]).default_scope
    assert listed[name]['task'] == SCOPES[scope]


def test_list_as_a_table():
    output = run('list', '--task', 'segmentation').output
    assert 'UPerNet, Swin-T from ImageNet-1K, 512 × 512, 160k iterations' in output
    assert 'mask_rcnn' not in output


def test_show_as_it_is_written():
    path = configs_dir() / 'mask_rcnn_swin_s_coco.py'
    assert run('show', 'mask_rcnn_swin_s_coco.py').stdout == path.read_text()


def test_show_resolved_is_a_config_on_its_own(tmp_path):
    text = run('show', 'mask_rcnn_swin_s_coco', '--resolved').stdout
    assert '_base_ =' not in text
    (tmp_path / 'alone.py').write_text(text)
    assert same(
        Config.fromfile(tmp_path / 'alone.py'), Config.fromfile(shipped()['mask_rcnn_swin_s_coco'])
    )


def test_copy_works_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run('copy', 'upernet_swin_b_ade20k').stdout == 'upernet_swin_b_ade20k.py\n'
    original = Config.fromfile(shipped()['upernet_swin_b_ade20k'])
    assert same(Config.fromfile('upernet_swin_b_ade20k.py'), original)
    with open('upernet_swin_b_ade20k.py', 'a') as file:
        file.write("model = dict(backbone=dict(drop_path_rate=0.5, arch='small'))\n")
    changed = Config.fromfile('upernet_swin_b_ade20k.py').model
    assert (changed.backbone.drop_path_rate, changed.backbone.arch) == (0.5, 'small')
    assert changed.decode_head == original.model.decode_head


def test_copy_to_a_file_and_a_folder(tmp_path):
    run('copy', 'cascade_swin_l_coco', tmp_path)
    run('copy', 'cascade_swin_l_coco', tmp_path / 'new' / 'mine.py')
    for path in (tmp_path / 'cascade_swin_l_coco.py', tmp_path / 'new' / 'mine.py'):
        assert Config.fromfile(path).model.backbone.arch == 'large'


def test_copy_does_not_overwrite(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text('a = 1')
    assert '--force' in run('copy', 'cascade_swin_l_coco', mine, code=3).stderr
    assert mine.read_text() == 'a = 1'
    run('copy', 'cascade_swin_l_coco', mine, '--force')
    assert Config.fromfile(mine).model.backbone.arch == 'large'


def test_copy_onto_the_config_itself(monkeypatch, tmp_path):
    """The config would become its own base."""
    own = tmp_path / 'own.py'
    own.write_text('# A title.\nmodel = dict()\n')
    monkeypatch.setattr('swin_backbone.tools.configs.configs_dir', lambda: tmp_path)
    assert 'itself' in run('copy', 'own', own, '--force', code=3).stderr
    assert own.read_text() == '# A title.\nmodel = dict()\n'


def test_unknown_names():
    assert 'upernet_swin_t_ade20k' in run('show', 'upernet_swin_t', code=3).stderr
    assert 'configs list' in run('copy', 'zzzz', code=3).stderr
    run('show', 'upernet_swin_t_ade20k', '--all', code=2)

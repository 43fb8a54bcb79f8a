"""``swin-backbone complexity``: JSON, table and errors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from swin_backbone import configs_dir
from swin_backbone.cli.commands import commands


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ['complexity', *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def as_json(*arguments: object) -> dict:
    return json.loads(run(*arguments, '--json').stdout)


def test_json_adds_up():
    found = as_json('mask_rcnn_swin_t_coco')
    assert found['shape'] == [3, 800, 1280] and found['not_counted'] == []
    for name in ('params', 'flops', 'flops_executed'):
        assert type(found[name]) is int
        assert found[name] == sum(part[name] for part in found['parts'])
    assert found['flops'] > found['flops_executed']
    parts = {part['name'] for part in found['parts']}
    assert {'backbone.stages.2.attention', 'neck', 'rpn_head', 'roi_head.mask_head'} <= parts


@pytest.mark.parametrize(
    'config, not_counted',
    [
        ('atss_swin_t_coco', []),
        ('retinanet_swin_t_coco', []),
        ('reppoints_swin_t_coco', ['bbox_head']),
        ('dino_swin_l_coco', ['bbox_head', 'encoder', 'decoder']),
        ('mask2former_swin_l_coco_instance', ['panoptic_head']),
        ('mask2former_swin_l_ade20k', ['decode_head']),
    ],
)
def test_every_kind_of_head(config, not_counted):
    found = as_json(config, '--shape', 3, 128, 128)
    assert found['flops'] > 0 and set(not_counted) <= set(found['not_counted'])
    assert bool(found['not_counted']) == bool(not_counted)


def test_a_neck_of_other_channels_is_a_line_that_names_the_option(tmp_path):
    base = configs_dir() / 'demo_mask_rcnn_shapes.py'
    text = f'_base_ = {str(base)!r}\nmodel = dict(neck=dict(in_channels=[96, 192, 384]))'
    (tmp_path / 'mine.py').write_text(text)
    said = run(tmp_path / 'mine.py', '--shape', 3, 128, 128, code=3).stderr
    assert said.startswith('Error: model.neck, a FPN, failed') and said.count('\n') == 1
    assert 'set model.neck.in_channels=[48, 96, 192]; --debug shows the traceback' in said


def test_test_time_augmentation_is_no_model_of_its_own():
    said = run('htcpp_swin_l_mstest_coco', code=3).stderr
    assert 'is a RoITTAModel, test-time augmentation around model.module' in said


def test_config_by_name_and_by_path(tmp_path):
    shape = ('--shape', 3, 128, 128)
    by_name = as_json('demo_upernet_shapes', *shape)
    base = configs_dir() / 'demo_upernet_shapes.py'
    (tmp_path / 'mine.py').write_text(f'_base_ = {str(base)!r}')
    for config in ('demo_upernet_shapes.py', base, tmp_path / 'mine.py'):
        assert as_json(config, *shape) == {**by_name, 'config': str(config)}


def test_default_shape_is_the_crop_of_a_segmentor():
    assert as_json('demo_upernet_shapes')['shape'] == [3, 128, 512]


def test_table():
    output = run('upernet_swin_t_ade20k').output
    for row in ('backbone.stages.3.mlp', 'decode_head', 'auxiliary_head', 'the whole model'):
        assert row in output
    assert '59.94 M' in output and '3 × 512 × 2048' in output


def test_table_names_what_was_not_counted(tmp_path):
    (tmp_path / 'detr.py').write_text("_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'")
    output = run(tmp_path / 'detr.py', '--shape', 3, 64, 64).output
    assert 'not counted' in output and 'decoder' in output


def test_errors(tmp_path):
    assert 'mask_rcnn_swin_t_coco' in run('mask_rcnn_swin_t_cocoa', code=3).stderr
    run('mask_rcnn_swin_t_coco', '--shape', 3, 0, 64, code=2)
    broken = tmp_path / 'broken.py'
    for text, message in (
        ('model = dict(', 'cannot be read'),
        ('a = 1', 'has no model'),
        ("model = dict(type='NoSuchModel')", 'cannot be built'),
        ("_base_ = 'mmdet::no/such.py'", 'cannot be read'),
    ):
        broken.write_text(text)
        error = run(broken, code=3).stderr
        assert error.startswith('Error: ') and message in error


def test_the_script_registers_the_backbone():
    """Only the script imports the package."""
    script = 'from swin_backbone.cli import main; main()'
    command = [sys.executable, '-W', 'ignore', '-c', script, 'complexity', 'upernet_swin_t_ade20k']
    done = subprocess.run([*command, '--json'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == '', done.stderr
    found = json.loads(done.stdout)
    assert found['flops'] > found['flops_executed'] > 0

"""``swin-backbone weights``: results, JSON and exit codes."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import v2_files
from click.testing import CliRunner, Result

from swin_backbone import SwinTransformer
from swin_backbone.cli.commands import commands
from swin_backbone.weights import LAYOUTS, convert, read_checkpoint
from swin_backbone.weights.catalog import catalog
from swin_backbone.weights.formats import FORMATS


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ['weights', *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def as_json(*arguments: object, code: int = 0):
    return json.loads(run(*arguments, '--json', code=code).stdout)


@pytest.fixture
def own(tmp_path, small_model) -> str:
    """A checkpoint as mmengine writes it."""
    path = tmp_path / 'epoch_3.pth'
    content = {'meta': {'epoch': 3, 'iter': 30}, 'state_dict': small_model.state_dict()}
    torch.save(content, path)
    return str(path)


@pytest.fixture
def official(tmp_path, small_model) -> str:
    """The same weights in the official layout."""
    path = tmp_path / 'official.pth'
    torch.save({'model': convert(small_model.state_dict(), 'microsoft')}, path)
    return str(path)


@pytest.fixture
def config(tmp_path, small):
    """Writes a config whose model has a backbone of some window."""

    def write(**changes: object) -> str:
        path = tmp_path / 'config.py'
        backbone = dict(type='SwinTransformer', **{**small, **changes})
        path.write_text(f"model = dict(type='Any', detector=dict(backbone={backbone!r}))\n")
        return str(path)

    return write


# --- list --------------------------------------------------------------------------------------


def test_list_is_the_catalog(monkeypatch, tmp_path):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    listed = as_json('list')
    assert [entry['name'] for entry in listed] == list(catalog())
    assert listed[0]['path'] == str(tmp_path / 'swin_tiny_patch4_window7_224.pth')


def test_list_finds(monkeypatch, tmp_path):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    (tmp_path / 'swin_large_patch4_window12_384_22k.pth').touch()
    result = run('list', 'large', 'in22k_384', '--version', '1', '--task', 'classification')
    rows = [line for line in result.output.splitlines() if 'swin_large' in line]
    assert len(rows) == 1 and 'swin_large_in22k_384 ' in rows[0] and ' yes ' in rows[0]
    assert f'1 of {len(catalog())} checkpoints' in result.output
    assert as_json('list', 'no such thing') == []


# --- info --------------------------------------------------------------------------------------


def test_info(own, official, small):
    found = as_json('info', own)
    assert (found['format'], found['version'], found['epoch']) == ('openmmlab', 1, 3)
    assert found['embed_dims'] == small['embed_dims']
    assert found['window_size'] == small['window_size']
    assert found['depths'] == list(small['depths']) and found['ema'] is False
    text = run('info', official).output
    assert 'microsoft' in text and 'window size' in text and 'num classes' not in text


def test_info_names_what_was_not_read(tmp_path, small_model):
    path = tmp_path / 'checkpoint-300.pth.tar'
    weights = convert(small_model.state_dict(), 'microsoft')
    arguments = Namespace(lr=0.1, data=tmp_path)
    torch.save({'state_dict': weights, 'args': arguments, 'hooks': [arguments]}, path)
    found = as_json('info', path)
    names = ['args (argparse.Namespace)', 'hooks.0 (argparse.Namespace)']
    assert found['not_read'] == names and found['format'] == 'microsoft'
    text = run('info', path).output
    assert re.search(r'^not read +args \(argparse\.Namespace\), hooks\.0 \(argp', text, re.M)
    torch.save({'state_dict': weights}, path)
    assert as_json('info', path)['not_read'] == []
    assert 'not read' not in run('info', path).output


def test_commands_on_pickles_of_arrays(tmp_path, small_model):
    """The format of detectron2's and Mask2Former's files."""
    weights = convert(small_model.state_dict(), 'microsoft')
    arrays = {f'backbone.{key}': value.numpy() for key, value in weights.items()}
    path = tmp_path / 'model_final.pkl'
    path.write_bytes(pickle.dumps({'model': arrays, '__author__': 'third_party'}))
    found = as_json('info', path)
    assert (found['format'], found['prefix'], found['not_read']) == ('microsoft', 'backbone.', [])
    assert found['dtypes'] == ['float32']
    run('convert', path, '--to', 'openmmlab', '-o', tmp_path / 'own.pth')
    torch.save(small_model.state_dict(), tmp_path / 'other.pth')
    assert as_json('diff', tmp_path / 'own.pth', tmp_path / 'other.pth')['same']
    run('diff', path, tmp_path / 'own.pth')
    checks = {check['name']: check for check in as_json('verify', path)['checks']}
    assert checks['layout']['passed'] and checks['readable']['passed']


def test_commands_take_a_prefix_into_dicts(tmp_path, small_model):
    weights = convert(small_model.state_dict(), 'microsoft')
    inner = {f'backbone.{key}': value for key, value in weights.items()}
    path = tmp_path / 'distilled.pth'
    torch.save({'teacher': inner, 'student': inner, 'args': Namespace()}, path)
    assert "'student.backbone.', 'teacher.backbone.'" in run('info', path, code=3).stderr
    found = as_json('info', path, '--prefix', 'teacher.backbone.')
    assert (found['container'], found['prefix']) == ('teacher', 'backbone.')
    run('convert', path, '--to', 'timm', '-o', tmp_path / 'b.pth', '--prefix', 'student')
    assert as_json('info', tmp_path / 'b.pth')['format'] == 'timm'


def test_verify_names_what_was_not_read(tmp_path, small_model):
    content = {'state_dict': small_model.state_dict(), 'args': Namespace()}
    torch.save(content, tmp_path / 'a.pth')
    checks = {check['name']: check for check in as_json('verify', tmp_path / 'a.pth')['checks']}
    assert checks['readable']['detail'] == 'but for args (argparse.Namespace)'
    torch.save({'state_dict': Namespace()}, tmp_path / 'a.pth')
    checks = as_json('verify', tmp_path / 'a.pth', code=1)['checks']
    assert not checks[-1]['passed'] and 'argparse.Namespace' in checks[-1]['detail']


def test_info_tells_the_resolution(tmp_path, small_model, small):
    """From a position embedding, the official masks or the catalog; else unknown."""
    weights = convert(small_model.state_dict(), 'microsoft')
    torch.save({'model': weights}, tmp_path / 'plain.pth')
    assert as_json('info', tmp_path / 'plain.pth')['resolution'] is None
    window = small['window_size']
    weights['layers.0.blocks.1.attn_mask'] = torch.zeros(36, window**2, window**2)
    torch.save({'model': weights}, tmp_path / 'masks.pth')
    assert as_json('info', tmp_path / 'masks.pth')['resolution'] == 6 * window * 4
    embedded = SwinTransformer(**small, use_abs_pos_embed=True, pretrain_img_size=96)
    torch.save(embedded.state_dict(), tmp_path / 'embedded.pth')
    assert as_json('info', tmp_path / 'embedded.pth')['resolution'] == 96
    torch.save({'model': weights}, tmp_path / 'swin_base_patch4_window12_384_22k.pth')
    found = as_json('info', tmp_path / 'swin_base_patch4_window12_384_22k.pth')
    assert (found['name'], found['resolution']) == ('swin_base_in22k_384', 384)


def test_info_says_what_a_config_would_resize(own, config):
    fits = as_json('info', own, '--config', config())
    assert fits['fits'] and fits['resized'] == []
    resized = as_json('info', own, '--config', config(window_size=7))
    assert resized['resized'] == ['relative position bias: window 4 to 7']
    assert 'window 4 to 7' in run('info', own, '--config', config(window_size=7)).output


def test_info_says_what_does_not_fit_a_config(own, config):
    found = as_json('info', own, '--config', config(depths=(2, 2, 4, 2)), code=1)
    assert not found['fits'] and 'depths: found (2, 2, 2, 2)' in found['problem']


def test_info_of_a_config_without_swin(own, tmp_path):
    (tmp_path / 'config.py').write_text("model = dict(backbone=dict(type='ResNet'))")
    found = as_json('info', own, '--config', tmp_path / 'config.py', code=1)
    assert 'no model with a Swin backbone' in found['problem']


# --- convert -----------------------------------------------------------------------------------


@pytest.mark.parametrize('to', ['microsoft', 'timm', 'transformers'])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_convert_there_and_back(own, tmp_path, to, suffix):
    there, back = tmp_path / f'there.{suffix}', tmp_path / 'back.pth'
    done = as_json('convert', own, '--to', to, '-o', there)
    assert (done['source'], done['to']) == ('openmmlab', to)
    assert 'tensors, from' in run('convert', there, '--to', 'openmmlab', '-o', back).output
    before, after = (read_checkpoint(path)['state_dict'] for path in (own, back))
    for key, value in before.items():
        if not key.endswith('relative_position_index') and not key.startswith('norm'):
            assert torch.equal(after[key], value), key


def test_convert_resizes_on_request(own, tmp_path):
    run('convert', own, '--to', 'openmmlab', '-o', tmp_path / 'new.pth', '--window', '6')
    assert as_json('info', tmp_path / 'new.pth')['window_size'] == 6


def test_convert_resizes_a_position_embedding(tmp_path, small):
    model = SwinTransformer(**small, use_abs_pos_embed=True, pretrain_img_size=64)
    torch.save(model.state_dict(), tmp_path / 'old.pth')
    new = tmp_path / 'new.pth'
    run('convert', tmp_path / 'old.pth', '--to', 'microsoft', '-o', new, '--grid', '20', '20')
    assert as_json('info', new)['pretrain_grid'] == [20, 20]


def test_convert_to_what_is_unknown(own, tmp_path):
    assert 'openmmlab' in run('convert', own, '--to', 'keras', '-o', 'x.pth', code=2).output


# --- diff --------------------------------------------------------------------------------------


def test_diff_of_the_same_weights_in_two_layouts(own, official):
    found = as_json('diff', official, official)
    assert found['same'] and found['compared'] > 50
    assert as_json('diff', own, own)['same']


def test_diff_names_what_differs(official, tmp_path, small_model):
    key = 'stages.1.blocks.0.attn.w_msa.proj.weight'
    changed = {k: v.clone() for k, v in small_model.state_dict().items()}
    changed[key][0, 0] += 0.5
    del changed['stages.0.blocks.0.norm1.bias']
    torch.save(changed, tmp_path / 'changed.pth')
    found = as_json('diff', official, tmp_path / 'changed.pth', code=1)
    assert found['values'] == {key: pytest.approx(0.5)}
    assert found['only_a'] == ['stages.0.blocks.0.norm1.bias']
    assert 'by up to 0.5' in run('diff', official, tmp_path / 'changed.pth', code=1).output


def test_diff_with_a_tolerance(tmp_path, small_model):
    weights = small_model.state_dict()
    torch.save(weights, tmp_path / 'a.pth')
    torch.save(
        {k: v + 1e-3 if v.is_floating_point() else v for k, v in weights.items()},
        tmp_path / 'b.pth',
    )
    run('diff', tmp_path / 'a.pth', tmp_path / 'b.pth', code=1)
    run('diff', tmp_path / 'a.pth', tmp_path / 'b.pth', '--tolerance', '0.01')


def test_diff_of_shapes_and_nan(tmp_path, small, small_model):
    torch.save(small_model.state_dict(), tmp_path / 'a.pth')
    other = SwinTransformer(**{**small, 'window_size': 3}).state_dict()
    torch.save(other, tmp_path / 'b.pth')
    found = as_json('diff', tmp_path / 'a.pth', tmp_path / 'b.pth', code=1)
    table = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    assert found['shapes'][table] == [[49, 1], [25, 1]]
    other['patch_embed.norm.weight'][0] = float('nan')
    torch.save(other, tmp_path / 'b.pth')
    found = run('diff', tmp_path / 'b.pth', tmp_path / 'b.pth', code=1)
    assert 'patch_embed.norm.weight' in found.output


# --- download and verify -----------------------------------------------------------------------


def test_download_offline_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    monkeypatch.setenv('SWIN_OFFLINE', '1')
    assert 'SWIN_OFFLINE' in run('download', 'swin_tiny_in1k', code=3).stderr
    assert 'nearest are' in run('download', 'swin_tiny_in1', code=3).stderr


def test_download_prints_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    path = tmp_path / 'swin_tiny_patch4_window7_224.pth'
    torch.save({}, path)
    assert run('download', 'swin_tiny_in1k').stdout == f'{path}\n'
    assert as_json('download', 'swin_tiny_in1k') == {'swin_tiny_in1k': str(path)}


def test_verify(own):
    found = as_json('verify', own)
    assert found['passed']
    assert {check['name']: check['passed'] for check in found['checks']} == {
        'published hash': None,
        'recorded hash': None,
        'readable': True,
        'layout': True,
        'finite': True,
    }


def test_verify_a_wrong_hash(own, tmp_path):
    wrong = tmp_path / 'model-0badc0de.pth'
    wrong.write_bytes(Path(own).read_bytes())
    assert 'FAILED' in run('verify', wrong, code=1).output


def test_verify_a_changed_file(monkeypatch, tmp_path, own):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    path = tmp_path / 'swin_tiny_patch4_window7_224.pth'
    path.write_bytes(Path(own).read_bytes())
    run('download', 'swin_tiny_in1k')
    found = as_json('verify', 'swin_tiny_in1k')
    assert [c['passed'] for c in found['checks'] if c['name'] == 'recorded hash'] == [True]
    torch.save({'a': torch.ones(1)}, path)
    found = as_json('verify', path, code=1)
    assert [c['passed'] for c in found['checks'][1:]] == [False, True, False, True]


def test_verify_damaged_and_nan(tmp_path, small_model):
    (tmp_path / 'empty.pth').touch()
    found = as_json('verify', tmp_path / 'empty.pth', code=1)
    assert found['checks'][-1] == {
        'name': 'readable',
        'passed': False,
        'detail': f'{tmp_path / "empty.pth"} is empty (0 bytes); is it cut short?',
    }
    weights = small_model.state_dict()
    weights['norm3.weight'][0] = float('nan')
    torch.save(weights, tmp_path / 'nan.pth')
    result = run('verify', tmp_path / 'nan.pth', code=1)
    assert 'NaN or infinity in norm3.weight' in result.stdout


@pytest.mark.parametrize('command', ['info', 'verify', 'download'])
def test_nothing_there(command):
    result = run(command, 'swin_tiny_in1', code=3)
    assert result.stderr.startswith('Error: ') and result.stdout == ''


def test_wrong_command_line():
    for arguments in (['lst'], ['info'], ['diff', 'a'], ['list', '--task', 'sorting']):
        run(*arguments, code=2)


# --- the script --------------------------------------------------------------------------------

SCRIPT = 'import sys; from swin_backbone.cli import main; main()'


# --- Swin V2 -------------------------------------------------------------------------------------


@pytest.fixture
def official_v2(tmp_path) -> str:
    """A V2 file in the official layout, fine-tuned with larger windows than in pretraining."""
    path = tmp_path / 'official_v2.pth'
    torch.save({'model': v2_files.random_state_dict((6, 6, 6, 3), (4, 4, 4, 2))}, path)
    return str(path)


def test_info_of_v2(official_v2, tmp_path):
    found = as_json('info', official_v2)
    assert (found['version'], found['format'], found['window_size']) == (2, 'microsoft', 6)
    assert found['pretrained_window_sizes'] == [4, 4, 4, 2]
    text = run('info', official_v2).output
    assert 'pretrained window sizes' in text and 'extra norm' not in text
    backbone = dict(type='SwinTransformerV2', **v2_files.GEOMETRY)
    for kind, fits in (('SwinTransformerV2', True), ('SwinTransformer', False)):
        config = tmp_path / 'config.py'
        config.write_text(f'model = dict(backbone={backbone | dict(type=kind)!r})\n')
        found = as_json('info', official_v2, '--config', config, code=int(not fits))
        assert found['fits'] is fits
        assert fits or 'version: found 2, wanted 1' in found['problem']


HEAD = ['norm.weight', 'norm.bias', 'head.fc.weight', 'head.fc.bias']


@pytest.mark.parametrize('to', ['timm', 'torchvision', 'openmmlab'])
def test_convert_diff_and_verify_of_v2(official_v2, tmp_path, to):
    there = tmp_path / 'there.safetensors'
    assert as_json('convert', official_v2, '--to', to, '-o', there)['to'] == to
    found = as_json('diff', official_v2, there, code=int(to == 'openmmlab'))
    assert not found['values'] and not found['only_b']
    assert found['only_a'] == (HEAD if to == 'openmmlab' else [])
    checks = {check['name']: check for check in as_json('verify', there)['checks']}
    assert checks['layout']['passed'] and 'Swin V2' in checks['layout']['detail']


def test_convert_to_torchvision_asks_for_the_window(official_v2, tmp_path):
    there, back = tmp_path / 'timm.pth', tmp_path / 'torchvision.pth'
    run('convert', official_v2, '--to', 'timm', '-o', there)
    refused = CliRunner().invoke(
        commands, ['weights', 'convert', str(there), '--to', 'torchvision', '-o', str(back)]
    )
    assert refused.exit_code and '--window' in str(refused.output) + str(refused.exception)
    assert not back.exists()
    run('convert', there, '--to', 'torchvision', '-o', back, '--window', 6)
    assert as_json('info', back)['window_size'] == 6


def script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-c', SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_script_is_quiet_and_loads_no_framework(own):
    result = script('weights', 'info', own, '--json')
    assert result.returncode == 0 and result.stderr == ''
    assert json.loads(result.stdout)['format'] == 'openmmlab'


def test_the_script_without_click():
    code = SCRIPT.replace('; from', '; sys.modules["click"] = None; from', 1)
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 3 and "pip install 'swin_backbone[cli]'" in result.stdout


def test_importing_the_package_imports_no_tool():
    code = (
        'import sys; from swin_backbone import SwinTransformer; '
        'print(sorted({"click", "pooch", "requests", "mmdet", "mmseg"} & set(sys.modules)))'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stderr


def test_layouts_are_known_without_importing_them():
    assert tuple(layout.name for layout in FORMATS) == LAYOUTS

"""``swin-backbone doctor`` in working and broken installations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
from click.testing import CliRunner

from swin_backbone.cli.commands import commands
from swin_backbone.tools import doctor
from swin_backbone.tools.doctor import Finding

SCRIPT = 'import sys; from swin_backbone.cli import main; main()'


def without(module: str) -> str:
    return SCRIPT.replace('; from', f'; sys.modules["{module}"] = None; from', 1)


def in_a_process(script: str, *arguments: str, path: Path | None = None):
    environment = dict(os.environ)
    if path is not None:
        places = [str(path), environment.get('PYTHONPATH', '')]
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, places))
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )


def findings(done: subprocess.CompletedProcess, code: int) -> dict[tuple[str, str], dict]:
    assert done.returncode == code, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report['well'] is (code == 0)
    return {(finding['check'], finding['name']): finding for finding in report['findings']}


def test_sound():
    result = CliRunner().invoke(commands, ['doctor'])
    assert result.exit_code == 0 and result.output.rstrip().endswith('All is well.')
    for row in ('mmcv operators', 'mmseg: SwinTransformer', 'cpu, bfloat16', 'writable'):
        assert row in result.output


@pytest.mark.parametrize('arguments', [[], ['--json']])
def test_what_is_wrong_comes_with_its_remedy(monkeypatch, arguments):
    found = [
        Finding('a check', 'a thing', False, 'is broken', 'mend it'),
        Finding('b', 'c', None, 'd'),
    ]
    monkeypatch.setattr('swin_backbone.cli.doctor.examine', lambda plugins: found)
    result = CliRunner().invoke(commands, ['doctor', *arguments])
    assert result.exit_code == 1
    assert 'is broken' in result.output and 'mend it' in result.output


def test_plugins_are_imported(monkeypatch):
    seen = []
    monkeypatch.setattr(doctor, 'registries', lambda plugins: seen.extend(plugins) or [])
    CliRunner().invoke(commands, ['doctor', '--import', 'a', '--import', 'b'])
    assert seen == ['a', 'b']


def test_mmcv_for_another_torch(tmp_path):
    """The real mmcv, with a compiled library that fails like one for another torch."""
    fake, real = tmp_path / 'mmcv', Path(mmcv.__file__).parent
    fake.mkdir()
    (fake / '__init__.py').write_text(
        f'__path__.append({str(real)!r})\nexec(open({str(real / "__init__.py")!r}).read())\n'
    )
    (fake / '_ext.py').write_text("raise ImportError('_ext.so: undefined symbol: _ZN3c106detail')")
    found = findings(in_a_process(SCRIPT, 'doctor', '--json', path=tmp_path), 1)
    operators = found['mmcv operators', 'loading']
    assert 'undefined symbol' in operators['detail'] and 'installed torch' in operators['detail']
    name = doctor._source('mmcv')[0]  # mmcv's, or the fork's
    assert f"--no-binary {name} '{name}=={mmcv.__version__}'" in operators['fix']
    assert (
        found['versions', 'mmcv']['ok'] and found['registries', 'mmengine: SwinTransformer']['ok']
    )
    assert found['registries', 'mmdet']['ok'] is False
    assert found['backends', 'cpu, float32']['ok']


def test_without_mmcv():
    """No model can be built, but the doctor and commands without models work."""
    script = without('mmcv')
    found = findings(in_a_process(script, 'doctor', '--json'), 1)
    assert found['versions', 'mmcv']['fix'] == doctor._install('mmcv')
    assert found['versions', 'torch']['ok'] and found['backends', 'cpu, float32']['ok']
    assert found['registries', 'the check itself']['ok'] is False
    other = in_a_process(script, 'weights', 'info', 'swin_tiny_in1k')
    assert other.returncode == 3 and 'swin-backbone doctor' in other.stdout
    assert in_a_process(script, 'weights', 'list').returncode == 0


def test_with_a_broken_torch(tmp_path):
    (tmp_path / 'torch.py').write_text("raise OSError('libcudart.so.13: no such file')")
    module = 'import runpy; runpy.run_module("swin_backbone.cli", run_name="__main__")'
    for script in (module, SCRIPT):
        done = in_a_process(script, 'doctor', '--json', path=tmp_path)
        found = findings(done, 1)
        assert found['versions', 'torch']['ok'] is False
        assert 'libcudart.so.13' in found['versions', 'torch']['detail']
        assert done.stderr == ''
    other = in_a_process(SCRIPT, 'complexity', 'mask_rcnn_swin_t_coco', path=tmp_path)
    assert other.returncode == 3 and 'libcudart' in other.stdout


def test_without_mmdet():
    script = without('mmdet')
    found = findings(in_a_process(script, 'doctor', '--json'), 0)
    assert found['versions', 'mmdet']['ok'] is None
    assert not [name for check, name in found if check == 'registries' and 'mmdet' in name]

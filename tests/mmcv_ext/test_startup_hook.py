"""The hook that makes ``mmcv._ext`` importable where mmcv was not compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTUP = ROOT / 'swin_backbone' / 'mmcv_ext' / 'startup.py'


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder of modules: an mmcv that has no operators, and the hook as the wheel has it."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    (tmp_path / '_swin_backbone_startup.py').write_text(STARTUP.read_text())
    return tmp_path


def run(site: Path, code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the hook, which a .pth file imports in an environment."""
    code = f'import _swin_backbone_startup, sys\n{code}'
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (site, ROOT)))}
    command = [sys.executable, *flags, '-c', code]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=site)


def test_operators_are_found_and_nothing_else_of_ours_is_imported(site):
    result = run(
        site,
        'import mmcv._ext as ext\n'
        'print(ext.__file__)\n'
        'print(sorted(name for name in sys.modules if name.startswith("swin_backbone")))\n'
        'print(ext.nms.__module__)\n',
    )
    assert result.returncode == 0, result.stderr
    file, ours, module = result.stdout.splitlines()
    assert file == str(ROOT / 'swin_backbone' / 'mmcv_ext' / '__init__.py')
    assert ours == '[]'
    assert module.startswith('mmcv._ext.')


def test_a_compiled_extension_is_preferred(site):
    # A source file is looked for in the same folder, after the names of compiled ones.
    (site / 'mmcv' / '_ext.py').write_text('compiled = True\n')
    result = run(site, 'import mmcv._ext as ext; print(ext.compiled)')
    assert result.stdout.strip() == 'True', result.stderr


def test_the_error_of_a_compiled_extension_stays(site):
    (site / 'mmcv' / '_ext.py').write_text('raise ImportError("undefined symbol: _ZN3c10")\n')
    result = run(site, 'import mmcv._ext')
    assert 'undefined symbol' in result.stderr


def test_without_mmcv_there_is_no_module(site):
    (site / 'mmcv' / '__init__.py').unlink()
    (site / 'mmcv').rmdir()
    code = (
        'import importlib.abc\n'
        'class Hidden(importlib.abc.MetaPathFinder):\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "mmcv":\n'
        '            raise ModuleNotFoundError("No module named mmcv")\n'
        'sys.meta_path.insert(0, Hidden())\n'
        'import mmcv._ext\n'
    )
    assert 'No module named mmcv' in run(site, code).stderr


def test_without_swin_backbone_the_hook_finds_nothing(site):
    code = (
        f'sys.path[:] = [entry for entry in sys.path if entry not in ("", {str(ROOT)!r})]\n'
        'sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f)]\n'
        'import mmcv._ext\n'
    )
    assert "No module named 'mmcv._ext'" in run(site, code).stderr


def test_installing_twice_appends_one_finder(site):
    code = (
        'import importlib, runpy\n'
        'importlib.reload(_swin_backbone_startup)\n'
        f'runpy.run_path({str(STARTUP)!r})["install"]()\n'
        'print(sum("OperatorsWithoutBuild" in str(finder) for finder in sys.meta_path))\n'
    )
    assert run(site, code).stdout.strip() == '1'


def test_the_hook_imports_nothing_heavy(site):
    code = 'import sys; before = set(sys.modules); import _swin_backbone_startup\n'
    code += 'print(set(sys.modules) - before)'
    env = {**os.environ, 'PYTHONPATH': str(site)}
    command = [sys.executable, '-S', '-c', code]
    alone = subprocess.run(command, capture_output=True, text=True, env=env, cwd=site)
    assert alone.stdout.strip() == "{'_swin_backbone_startup'}", alone.stderr


@pytest.mark.parametrize('name', ['knn_forward', 'a_later_operator'])
def test_an_operator_that_is_absent_says_how_to_get_it(name):
    from swin_backbone import mmcv_ext

    operator = getattr(mmcv_ext, name)
    with pytest.raises(NotImplementedError, match=rf'{name}.*compiled mmcv.*MMCV_WITH_OPS'):
        operator(1, flag=True)
    with pytest.raises(AttributeError):
        mmcv_ext.__wrapped__  # noqa: B018

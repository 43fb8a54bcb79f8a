"""What a user gets from the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel of the tracked and new files, built where it cannot litter the checkout."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split('\0')):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = ['wheel', '-q', '--no-build-isolation', '--no-deps', '-w', str(out), str(source)]
    subprocess.run([sys.executable, '-m', 'pip', *command], check=True)
    return next(out.glob('*.whl'))


def test_wheel_holds_the_package_and_every_config(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (
        ('swin_backbone', 'swin_backbone'),
        ('configs', 'swin_backbone/configs'),
    ):
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob('*.py')]
        assert files
        missing = {f'{inside}/{path.as_posix()}' for path in files} - names
        assert not missing
    assert 'swin_backbone/checkpoints/catalog.yml' in names
    outside = ('tests', 'docs', 'configs', 'checkpoints')
    assert not [name for name in names if name.startswith(outside)]


def test_an_installed_user_finds_the_configs(wheel, tmp_path):
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import swin_backbone\n'
        f'assert swin_backbone.__file__.startswith({str(site)!r})\n'
        'from mmengine.config import Config\n'
        'for path in sorted(swin_backbone.configs_dir().glob("*.py")):\n'
        '    if not path.stem.endswith("_imagenet"):  # which need mmpretrain\n'
        '        model = Config.fromfile(path).model\n'
        '        backbone = model.get("module", model).backbone\n'
        '        assert backbone.type in ("SwinTransformer", "SwinTransformerV2"), path\n'
        '    print("config", path.name)\n'
        'from swin_backbone.weights.download import target\n'
        'assert target("swin_tiny_in1k").path.parent.name == "swin_backbone"\n'
        'from click.testing import CliRunner\n'
        'from swin_backbone.cli.commands import commands\n'
        'CliRunner().invoke(commands, ["configs", "copy", "cascade_swin_l_coco", "mine.py"])\n'
        f'assert {str(site)!r} in open("mine.py").read()\n'
        'assert Config.fromfile("mine.py").model.backbone.arch == "large"\n'
    )
    env = {name: value for name, value in os.environ.items() if name != 'SWIN_CHECKPOINTS'}
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert result.returncode == 0, result.stderr
    read = {line.split()[1] for line in result.stdout.splitlines() if line.startswith('config ')}
    assert {path.name for path in (ROOT / 'configs').glob('*.py')} == read


def test_runtime_dependencies_are_the_four(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith('METADATA'))).decode()
    required = [line for line in metadata.splitlines() if line.startswith('Requires-Dist:')]
    plain = {line.split()[1].split('>')[0] for line in required if 'extra ==' not in line}
    assert plain == {'torch', 'numpy', 'mmengine', 'mmcv'}
    extras = {
        line.split()[1] for line in metadata.splitlines() if line.startswith('Provides-Extra:')
    }
    assert {'det', 'seg', 'cls', 'all', 'cli', 'weights'} <= extras


def test_the_wheel_brings_the_command_line(wheel):
    archive = zipfile.ZipFile(wheel)
    scripts = archive.read(next(n for n in archive.namelist() if n.endswith('entry_points.txt')))
    assert b'swin-backbone = swin_backbone.cli:main' in scripts


def test_runs_without_the_libraries_of_downloads_and_safetensors(tmp_path):
    code = (
        'import sys\n'
        "for name in ('safetensors', 'pooch', 'click'):\n"
        '    sys.modules[name] = None\n'
        'import torch, swin_backbone\n'
        'from swin_backbone.weights import read_checkpoint\n'
        "torch.save({'a': torch.ones(2)}, 'a.pth')\n"
        "print(read_checkpoint('a.pth')['a'].sum().item())\n"
        "head = b'{}'\n"
        "open('a.safetensors', 'wb').write(len(head).to_bytes(8, 'little') + head)\n"
        "for name in ('a.safetensors', 'swin_tiny_in1k'):\n"
        '    try:\n'
        '        read_checkpoint(name)\n'
        '    except swin_backbone.CheckpointError as error:\n'
        '        print(error)\n'
    )
    env = {**os.environ, 'SWIN_CHECKPOINTS': str(tmp_path)}
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert result.returncode == 0, result.stderr
    assert '2.0' in result.stdout
    assert result.stdout.count('swin_backbone[weights]') == 2

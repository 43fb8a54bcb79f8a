"""What a user gets from the sdist and the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from swin_backbone import __version__

ROOT = Path(__file__).parent.parent


# One worker builds for all of these.
pytestmark = pytest.mark.xdist_group('packaging')

# What git tracks and the sdist does not need, and what the build adds to it.
LEFT_OUT = ('.ci/', '.git')
ADDED = ('PKG-INFO', 'setup.cfg', 'swin_backbone.egg-info/')


def own_files() -> list[str]:
    """The tracked and new files of the checkout; in an unpacked sdist, what it says it holds."""
    if not (ROOT / '.git').exists():
        listed = (ROOT / 'swin_backbone.egg-info' / 'SOURCES.txt').read_text().splitlines()
    else:
        command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        listed = result.stdout.split('\0')
    return [name for name in listed if name and (ROOT / name).is_file()]


def copied(target: Path) -> Path:
    """The files where building cannot litter the checkout."""
    for name in own_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((ROOT / name).read_bytes())
    return target


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    """The folder of sdist and wheel, as ``make dist`` makes them: the wheel from the sdist."""
    source, out = copied(tmp_path_factory.mktemp('source')), tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope='module')
def wheel(built) -> Path:
    (wheel,) = built.glob('*.whl')
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel: Path) -> Message:
    name = f'swin_backbone-{__version__}.dist-info/METADATA'
    return message_from_bytes(contents(wheel)[name])


def test_wheel_holds_the_package_and_every_config(wheel):
    names = set(contents(wheel))
    wanted = {name for name in own_files() if name.startswith('swin_backbone/')}
    wanted |= {f'swin_backbone/{n}' for n in own_files() if n.startswith('configs/')}
    wanted.add('swin_backbone/checkpoints/catalog.yml')
    wanted |= {'_swin_backbone_startup.py', 'swin_backbone.pth'}
    assert 'swin_backbone/py.typed' in wanted
    stray = {name for name in names - wanted if '.dist-info/' not in name}
    assert (wanted - names, stray) == (set(), set())


def test_wheel_of_the_checkout_is_that_of_the_sdist(wheel, tmp_path):
    source = copied(tmp_path / 'source')
    # What a checkout may hold as well, and no wheel may.
    for litter in ('checkpoints/swin_tiny.pth', 'swin_backbone/notes.txt', 'configs/mine.yml'):
        (source / litter).write_text('')
    command = ['wheel', '-q', '--no-build-isolation', '--no-deps', '-w', str(tmp_path), str(source)]
    subprocess.run([sys.executable, '-m', 'pip', *command], check=True)
    (other,) = tmp_path.glob('*.whl')
    assert contents(other) == contents(wheel)


def test_sdist_holds_what_git_tracks(built):
    (sdist,) = built.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        files = {member.name.partition('/')[2] for member in archive if member.isfile()}
    assert files - {name for name in files if name.startswith(ADDED)} == {
        name for name in own_files() if not name.startswith((*LEFT_OUT, *ADDED))
    }


def test_metadata_name_licence_version_and_types(wheel):
    metadata = metadata_of(wheel)
    assert metadata['Version'] == __version__
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata.get_all('License-File') == ['LICENSE', 'NOTICE']
    assert 'Typing :: Typed' in metadata.get_all('Classifier')
    assert metadata.get_payload().startswith('# swin_backbone')


def test_changelog_begins_with_this_version():
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    headings = re.findall(r'^## \[(\S+)\](?: - (\d{4}-\d\d-\d\d))?$', changelog, re.MULTILINE)
    released = [(version, date) for version, date in headings if version != 'Unreleased']
    assert released[0][0] == __version__
    assert all(date for _, date in released)


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


def test_runtime_dependencies_are_the_three(wheel):
    required = metadata_of(wheel).get_all('Requires-Dist')
    plain = {line.split('>')[0] for line in required if 'extra ==' not in line}
    assert plain == {'torch', 'numpy', 'mmengine'}
    extras = set(metadata_of(wheel).get_all('Provides-Extra'))
    assert {'det', 'seg', 'cls', 'all', 'cli', 'weights', 'lite'} <= extras


def test_one_extra_alone_brings_mmcv_and_it_is_the_one_without_a_build(wheel):
    required = metadata_of(wheel).get_all('Requires-Dist')
    brings = {line.partition('extra == ')[2].strip('"\'') for line in required if 'mmcv' in line}
    assert brings == {'lite'}
    assert all(line.startswith('mmcv-lite') for line in required if 'mmcv' in line)


def test_the_wheel_brings_the_command_line(wheel):
    scripts = contents(wheel)[f'swin_backbone-{__version__}.dist-info/entry_points.txt']
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

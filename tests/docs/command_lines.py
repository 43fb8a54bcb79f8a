"""Whether a command line of the documentation exists: its program, options, files and names."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import click
from blocks import ROOT, words
from mim.commands.test import cli as mim_test
from mim.commands.train import cli as mim_train
from mmengine.config import Config
from torch.distributed.run import get_args_parser

from swin_backbone.cli.commands import commands
from swin_backbone.tools.configs import read
from swin_backbone.tools.predictor import build_on_meta
from swin_backbone.weights import catalog

MIM = {'train': mim_train, 'test': mim_test}
# A path of the readers' own, as the pages write them; what stands for it is in stand_ins.py.
_OWN = re.compile(r'(work_dirs/\w+/)?(epoch|iter)_\d+\.pth')


def parse(command: str, folder: Path) -> None:
    """Fails where a command line could not be run by a reader with the files in ``folder``."""
    _, (program, *arguments) = words(command)
    if program not in PARSERS:
        raise AssertionError(f'no parser for {program}: add one to command_lines.PARSERS')
    PARSERS[program](arguments, folder)


def parse_swin_backbone(arguments: list[str], folder: Path) -> None:
    """Commands, arguments and options; files have to be there."""
    command: click.Command = commands
    name: str | None = 'swin-backbone'
    while isinstance(command, click.Group):
        name, resolved, arguments = command.resolve_command(click.Context(command), arguments)
        assert resolved is not None
        command = resolved
    assert command.make_context(name, arguments) is not None


def parse_mim(arguments: list[str], folder: Path) -> None:
    """mim's options, then those of the framework's script; config, its options and checkpoint."""
    verb, *rest = arguments
    given = MIM[verb].make_context(verb, rest).params
    config = located(given['config'], folder)
    options = parse_script(given['package'], verb, list(given['other_args']), given)
    # mmpretrain's bases are missing where it is.
    settings = read(config) if importlib.util.find_spec(given['package']) else Config()
    if changes := options.get('cfg_options'):
        settings.merge_from_dict(changes)
        build_on_meta(settings, config.name)
    if checkpoint := given.get('checkpoint'):
        assert _OWN.fullmatch(checkpoint) or checkpoint in catalog.catalog(), checkpoint


def parse_script(package: str, verb: str, rest: list[str], given: dict) -> dict:
    """The options of a framework's script of that name; none where it is not installed."""
    if importlib.util.find_spec(package) is None:
        assert package == 'mmpretrain' and not rest, (package, rest)
        return {}
    script = script_of(package, verb)
    checkpoint = [given['checkpoint']] if given.get('checkpoint') else []
    line = [script.__file__ or '', given['config'], *checkpoint, *rest]
    with mock.patch.object(sys, 'argv', line):
        return vars(script.parse_args())


def script_of(package: str, verb: str) -> ModuleType:
    """The script that mim runs."""
    (folder,) = importlib.util.find_spec(package).submodule_search_locations or ()
    path = Path(folder, '.mim', 'tools', f'{verb}.py')
    spec = importlib.util.spec_from_file_location(f'{package}_{verb}_script', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def located(config: str, folder: Path) -> Path:
    """A config of the repository, or a stand-in for a reader's own."""
    path = (ROOT if config.startswith('configs/') else folder) / config
    assert path.is_file(), f'{config} is neither in configs/ nor a stand-in'
    return path


def parse_make(arguments: list[str], folder: Path) -> None:
    """The targets exist."""
    command = ['make', '--dry-run', '--no-print-directory', *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What pages install besides this package, and with which options.
OTHERS = {
    *('torch', 'torchvision', '--no-build-isolation', '--no-binary', 'mmcv', 'mmcv==2.1.0'),
    *(f'onedl-{name}' for name in ('mmengine', 'mmcv', 'mmdetection', 'mmsegmentation', 'mim')),
}


def parse_pip(arguments: list[str], folder: Path) -> None:
    """``pip install 'swin_backbone[EXTRAS]'`` or of the checkout, with extras that exist."""
    verb, *rest = arguments
    if verb == 'uninstall' or rest == ['--no-deps', '.'] or OTHERS.issuperset(rest):
        return
    (what,) = rest
    found = re.fullmatch(r'(?:swin_backbone|\.)\[([\w,]+)\]', what)
    assert verb == 'install' and found, arguments
    text = (ROOT / 'pyproject.toml').read_text().partition('[project.optional-dependencies]')[2]
    extras = re.findall(r'^(\w+) = \[', text.partition('\n\n')[0], re.MULTILINE)
    assert set(found[1].split(',')) <= set(extras), extras


def parse_python(arguments: list[str], folder: Path) -> None:
    """A script of the repository, which knows the options."""
    script, *rest = arguments
    assert (ROOT / script).is_file() or (folder / script).is_file(), script
    known = ''.join(file.read_text() for file in (ROOT / script).parent.glob('*.py'))
    for option in (word for word in rest if word.startswith('--')):
        assert f"'{option}'" in known, f'{script} has no {option}'


def parse_launch(arguments: list[str], folder: Path) -> None:
    """torchrun's or srun's line that ends in a framework's script, its config and options."""
    at = next(i for i, word in enumerate(arguments) if word.endswith('/.mim/tools/train.py'))
    where = arguments[at].removesuffix('/.mim/tools/train.py')
    package = re.fullmatch(r"\$\(python -c 'import (\w+); print\(\1\.__path__\[0\]\)'\)", where)
    assert package, where
    config, *rest = arguments[at + 1 :]
    assert located(config, folder)
    parse_script(package[1], 'train', rest, dict(config=config))
    if arguments[:at] != ['python']:
        assert get_args_parser().parse_args([*arguments[:at], 'script.py'])


def parse_curl(arguments: list[str], folder: Path) -> None:
    """An image posted to what ``serve`` serves by default."""
    option, image, address = arguments
    assert (option, image[0]) == ('--data-binary', '@'), arguments
    command = commands.get_command(click.Context(commands), 'serve')
    port = next(p.default for p in command.params if p.name == 'port')
    assert address == f'http://127.0.0.1:{port}/predict'


def parse_export(arguments: list[str], folder: Path) -> None:
    """A variable of the shell."""
    assert all(re.fullmatch(r'\w+=\S+', word) for word in arguments)


PARSERS: dict[str, Callable[[list[str], Path], None]] = {
    'swin-backbone': parse_swin_backbone,
    'mim': parse_mim,
    'make': parse_make,
    'pip': parse_pip,
    'python': parse_python,
    'torchrun': parse_launch,
    'srun': parse_launch,
    'curl': parse_curl,
    'export': parse_export,
}

"""The package's configs by name, and reading of any config."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .. import configs_dir
from ..errors import ArgumentError
from ..weights.download import user_path

if TYPE_CHECKING:
    from mmengine.config import Config

TASKS = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}
# The extra that installs a framework.
EXTRAS = {'mmdet': 'det', 'mmseg': 'seg', 'mmpretrain': 'cls'}
DOCTOR = '`swin-backbone doctor` checks the installation'
_FRAMEWORK = re.compile(r"'(\w+)::|__import__\('(\w+)'\)|^default_scope = '(\w+)'", re.MULTILINE)
_LEADING_COMMENT = re.compile(r'\A(?:#.*\n)+')


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppresses warnings, and sends what the frameworks print on import to stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter('ignore')
        yield


def shipped() -> dict[str, Path]:
    """The files of the package's configs, by their names without ``.py``."""
    paths = sorted(configs_dir().glob('*.py'))
    return {path.stem: path for path in paths if path.stem != '__init__'}


def find(name: str) -> Path:
    """The file of a shipped config.

    Raises:
        ArgumentError: No config has that name; the message lists similar ones.
    """
    found = shipped().get(name.removesuffix('.py'))
    if found is None:
        near = difflib.get_close_matches(name, shipped(), cutoff=0.4)
        hint = f'the nearest are {", ".join(near)}' if near else 'see `swin-backbone configs list`'
        raise ArgumentError(f'no config is called {name!r}; {hint}')
    return found


def located(config: str | Path) -> Path:
    """The file of a config, given its path or the name of a shipped one.

    Raises:
        ArgumentError: There is no such file or config.
    """
    path = user_path(config)
    return path if path.is_file() else find(str(config))


def summary(name: str) -> dict[str, str | None]:
    """Name, task, title and path of a shipped config, read from its text without any framework.

    The title is the first sentence of the leading comment or docstring. The task is None if neither
    the config nor its bases name a framework.
    """
    path = find(name)
    text = path.read_text()
    if comment := _LEADING_COMMENT.match(text):
        leading = comment[0].replace('#', ' ')
    else:
        leading = ast.get_docstring(ast.parse(text)) or ''
    leading = ' '.join(leading.split())
    title = leading.split('. ')[0].rstrip('.')
    framework = _framework(path)
    return dict(name=path.stem, task=TASKS.get(framework or ''), title=title, path=str(path))


def _framework(path: Path) -> str | None:
    """The framework whose configs or scope a config, or one of its bases, refers to."""
    text = path.read_text()
    if named := _FRAMEWORK.search(text):
        return named[1] or named[2] or named[3]
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            bases = ast.literal_eval(node.value)
            bases = [bases] if isinstance(bases, str) else bases
            return next(filter(None, (_framework(path.parent / base) for base in bases)), None)
    return None


def install_advice(framework: str) -> str:
    """How to install a framework, or ``''`` if it is installed."""
    if framework not in EXTRAS or importlib.util.find_spec(framework) is not None:
        return ''
    return f"pip install 'swin_backbone[{EXTRAS[framework]}]' brings {framework}"


def read(config: str | Path) -> Config:
    """A config with its bases merged, given its path or the name of a shipped one.

    Raises:
        ArgumentError: There is no such config, or it cannot be read.
    """
    return parsed(located(config), config)


@quietly()
def parsed(path: Path, name: str | Path) -> Config:
    """A config with its bases merged; the frameworks' models are not imported.

    Raises:
        ArgumentError: It cannot be read; the message calls it ``name``.
    """
    try:
        from mmengine.config import Config

        return Config.fromfile(path)
    # A config is code, which may also exit; mmengine raises errors of many types.
    except (Exception, SystemExit) as error:
        said = f'{type(error).__name__}: {error}'
        named = (install_advice(scope) for scope in EXTRAS if scope in said)
        hint = next(filter(None, named), DOCTOR if isinstance(error, ImportError) else '')
        raise ArgumentError(
            f'{name} cannot be read: {said}{f"; {hint}" if hint else ""}'
        ) from error

"""Imports within the package point downward and form no circle.

Import statements are read from the source, including those inside functions; those under
``if TYPE_CHECKING:`` do not count.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import swin_backbone

FOLDER = Path(swin_backbone.__file__).parent
PACKAGE = 'swin_backbone'

# From top to bottom: a file imports from its own room and from those below. A room is a folder or a
# file; '' is the package itself, of which the tools and the demo use `configs_dir`.
ROOMS = [
    ('cli', 'demo'),
    ('tools',),
    ('engine', 'heads'),
    ('',),
    ('startup',),
    ('registration',),
    ('classification',),
    ('swin_v2',),
    ('swin',),
    ('layers',),
    ('weights',),
    ('ops',),
    ('options', 'arguments', 'argument_values', 'patches'),
    ('frameworks',),
    ('errors', 'files', 'imports', 'moved', 'version'),
    ('mmcv_ext',),
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
# Rooms beside each other in the list that do not use each other.
APART = [('layers', 'weights'), ('weights', 'layers'), ('cli', 'demo'), ('demo', 'cli')]

CORE = {'torch', 'numpy', 'mmengine', 'mmcv.cnn'}
FRAMEWORKS = {'mmdet', 'mmseg', 'mmpretrain'}
# What rooms may import from outside the standard library. Rooms not listed are free, but for
# frameworks: the doctor and the explanations of errors in `tools` import those by their names.
OUTSIDE: dict[str, set[str]] = {
    **{room: set() for room in ('', 'arguments', 'errors', 'files', 'frameworks', 'imports')},
    **{room: set() for room in ('moved', 'startup', 'version')},
    'patches': {'mmengine', 'deepspeed'},
    'argument_values': {'torch', 'numpy'},
    'options': {'torch'},
    'ops': {'torch', 'triton'},
    'mmcv_ext': {'torch', 'numpy'},
    **dict.fromkeys(('layers', 'swin', 'swin_v2'), CORE),
}
MAY_IMPORT_FRAMEWORKS = {'registration', 'classification', 'heads', 'engine', 'demo'}


def modules() -> dict[str, Path]:
    """Each module's file, by its name without the package's."""
    names = {}
    for path in sorted(FOLDER.rglob('*.py')):
        parts = path.relative_to(FOLDER).with_suffix('').parts
        if parts[0] in ('configs', 'checkpoints'):  # of an installed package
            continue
        names['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return names


MODULES = modules()


def statements(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """Import statements, and calls of ``import_module`` with a literal name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith('import_module'):
            yield from [child] * isinstance(child.args[0], ast.Constant)
        yield from statements(child)


def named(statement: ast.AST, package: list[str]) -> Iterator[str]:
    """The modules, or names in modules, that a statement imports, by their full names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    if isinstance(statement, ast.ImportFrom):
        level, start = statement.level, statement.module or ''
        names = [alias.name for alias in statement.names]
    else:
        assert isinstance(statement, ast.Call) and isinstance(statement.args[0], ast.Constant)
        start = statement.args[0].value.lstrip('.')
        level, names = len(statement.args[0].value) - len(start), []
    parents = package[: len(package) - level + 1] if level else []
    base = '.'.join([*parents, *([start] if start else [])])
    yield from (f'{base}.{name}' for name in names) if names else [base]


def defining(name: str) -> str:
    """The module that a name without the package's is, or is defined in."""
    if name in MODULES:
        return name
    module, _, attribute = name.rpartition('.')
    if 'lazy_attributes(' in MODULES[module].read_text():  # which imports it from a submodule
        value = getattr(importlib.import_module(f'{PACKAGE}.{module}'.rstrip('.')), attribute)
        source = getattr(value, '__module__', '').partition('.')[2]
        return source if source in MODULES else module
    return module


@functools.cache
def imports() -> dict[str, tuple[set[str], set[str]]]:
    """For each module: the modules of the package, and the other ones, that it imports."""
    found = {}
    for name, path in MODULES.items():
        full = [PACKAGE, *(name.split('.') if name else [])]
        package = full if path.name == '__init__.py' else full[:-1]
        ours: set[str] = set()
        others: set[str] = set()
        for statement in statements(ast.parse(path.read_text())):
            for target in named(statement, package):
                if target.partition('.')[0] != PACKAGE:
                    others.add(target)
                    continue
                ours.add(defining(target.partition('.')[2]))
        found[name] = (ours - {name}, others)
    return found


def room_of(module: str) -> str:
    return module.partition('.')[0]


def circles() -> list[set[str]]:
    """The sets of modules of which each imports each, directly or not."""
    reached: dict[str, set[str]] = {}
    for start in MODULES:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = imports()[waiting.pop()][0] - seen
            seen |= new
            waiting += new
        reached[start] = seen
    together = {frozenset(m for m in reached[n] if n in reached[m]) for n in MODULES}
    return [set(circle) for circle in together if circle]


def test_the_reader_of_imports():
    """What the tests below rest on: relative imports, lazy ones, and names in modules."""
    assert 'errors' in imports()['ops.backends'][0]
    assert 'weights.inspect' in imports()['cli.weights'][0]  # lazily, through weights
    assert 'tools.data_report' not in imports()['cli.output'][0]
    assert '' in imports()['tools.configs'][0]  # from .. import configs_dir
    assert 'torch' in {other.partition('.')[0] for other in imports()['ops.backends'][1]}
    assert all(target in MODULES for ours, _ in imports().values() for target in ours)


def test_every_file_is_in_a_room():
    assert {room_of(module) for module in MODULES} <= RANK.keys()


def test_no_circle():
    assert circles() == []


def test_imports_point_downward():
    upward = {
        (module, target)
        for module, (ours, _) in imports().items()
        for target in ours
        if RANK[room_of(target)] < RANK[room_of(module)]
        or (room_of(module), room_of(target)) in APART
    }
    assert upward == set()


def allowed(name: str, among: set[str]) -> bool:
    return any(f'{name}.'.startswith(f'{other}.') for other in among)


@pytest.mark.parametrize('room', OUTSIDE)
def test_what_a_room_imports_from_outside(room):
    wrong = {
        (module, other)
        for module, (_, others) in imports().items()
        for other in others
        if room_of(module) == room
        and other.partition('.')[0] not in sys.stdlib_module_names
        and not allowed(other, OUTSIDE[room])
    }
    assert wrong == set()


def test_who_imports_frameworks():
    importing = {
        room_of(module)
        for module, (_, others) in imports().items()
        if FRAMEWORKS & {other.partition('.')[0] for other in others}
    }
    assert importing <= MAY_IMPORT_FRAMEWORKS

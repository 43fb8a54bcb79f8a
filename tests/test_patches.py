"""``patches.py`` has every assignment to another package's attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import swin_backbone

PACKAGE = Path(swin_backbone.__file__).parent
OTHERS = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mim', 'torch', 'deepspeed'}


def others(tree: ast.Module) -> set[str]:
    """The names in a module that are bound by imports of the frameworks, torch or DeepSpeed."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(a.asname or a.name.partition('.')[0], a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [(a.asname or a.name, node.module or '') for a in node.names]
        else:
            continue
        found |= {name for name, module in names if module.partition('.')[0] in OTHERS}
    return found


def assigned(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            yield node.target
        elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setattr':
            yield ast.Attribute(node.args[0], '?', ast.Store())


def changes(code: str) -> list[str]:
    """The attributes of other packages that code assigns."""
    tree = ast.parse(code)
    names, found = others(tree), []
    for target in assigned(tree):
        root, depth = target, 0
        while isinstance(root, ast.Attribute | ast.Subscript):
            root, depth = root.value, depth + 1
        if depth and isinstance(root, ast.Name) and root.id in names:
            found.append(ast.unparse(target))
    return found


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: p.stem)
def test_no_other_file_changes_another_package(path):
    assert path.name == 'patches.py' or changes(path.read_text()) == []


def test_changes_are_found():
    code = 'import torch, mmengine.runner as r\nfrom mmcv import ops\nx = ops\nx.a = 1\n'
    assert changes(code + 'torch.a.b[0] = 1\nr.c: int = 2\nsetattr(ops, "d", 3)\n') == [
        'torch.a.b[0]',
        'r.c',
        'ops.?',
    ]

"""Warnings that mean nothing are left out, by message and module; all others are given."""

from __future__ import annotations

import os
import subprocess
import sys

from swin_backbone import configs_dir
from swin_backbone.engine.quiet import python_warnings

CODE = """
import contextlib, io, sys, warnings
from mmengine.evaluator import metric
from mmengine.fileio import file_client
import swin_backbone.engine.quiet as quiet

def logged(text, module):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        sys.modules[module].print_log(text)
    return text in out.getvalue()

def warned(text, module):
    with contextlib.redirect_stderr(io.StringIO()) as out:
        warnings.warn_explicit(text, UserWarning, 'file.py', 1, module=module)
    return text in out.getvalue()

modules = {module for text, module in quiet.LOGGED}
for text, module in quiet.LOGGED:
    assert not logged(text + ' and more', module), text
    assert all(logged(text + ' and more', other) for other in modules - {module}), text
    assert logged('Something else', module), text
for text, module in quiet.WARNINGS:
    assert not warned(text + ' and more', module), text
    assert warned(text + ' and more', module + '.below'), text
    assert warned(text + ' and more', 'users.module'), text
    assert warned('Something else', module), text
"""


def test_one_message_of_one_module(fresh):
    done = fresh.run('-c', CODE, warnings='default')
    assert done.returncode == 0, done.stderr


def test_only_where_it_is_asked_for(fresh):
    code = (
        'import warnings, swin_backbone\n'
        'from swin_backbone import SwinTransformer\n'
        'text = "pkg_resources is deprecated as an API. See"\n'
        'warnings.warn_explicit(text, UserWarning, "file.py", 1, module="importlib")'
    )
    done = fresh.run('-c', code, warnings='default')
    assert 'deprecated as an API' in done.stderr


def test_environment_of_commands():
    """As in the demo; what the user has set stays, and wins."""
    code = (
        'import warnings\n'
        'text = "pkg_resources is deprecated as an API. See https://..."\n'
        'for module in ("importlib", "mim.commands.list", "users.module"):\n'
        '    warnings.warn_explicit(text, UserWarning, module, 1, module=module)\n'
    )

    def run(value: str) -> str:
        environment = {**os.environ, 'PYTHONWARNINGS': value}
        command = [sys.executable, '-c', code]
        return subprocess.run(command, capture_output=True, text=True, env=environment).stderr

    quiet = run(python_warnings())
    assert 'users.module:1' in quiet and 'importlib:1' not in quiet and 'mim.' not in quiet
    assert 'importlib:1' in run(python_warnings('always'))
    assert python_warnings('a,b').endswith(',a,b')


def test_recipes_import_it():
    for path in [configs_dir() / '_base_/runtime/swin.py', *configs_dir().glob('*.py')]:
        text = path.read_text()
        if 'custom_imports' in text:
            assert "'swin_backbone.engine.quiet'" in text, path

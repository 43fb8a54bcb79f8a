"""Callbacks of imports, whatever else finds, loads and reloads modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

from swin_backbone.imports import is_imported, when_imported

NAME = 'imported_late'


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder on the path, whose modules are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition('.')[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def waits():
    """``when_imported``, ended after the test."""
    ends = []
    yield lambda *args, **kwargs: ends.append(when_imported(*args, **kwargs))
    for end in ends:
        end()


def write(place: Path, text: str) -> None:
    (place / f'{NAME}.py').write_text(text)
    importlib.invalidate_caches()


def test_called_at_the_end_of_an_import_and_of_a_reload(place, waits):
    write(place, 'value = 1')
    seen = []
    waits(NAME, lambda: seen.append(sys.modules[NAME].value))
    assert seen == [] and NAME not in sys.modules
    module = importlib.import_module(NAME)
    importlib.import_module(NAME)
    assert seen == [1]
    importlib.reload(module)
    assert seen == [1, 1]


def test_called_at_once_for_what_is_there(waits):
    seen = []
    waits('sys', lambda: seen.append(1))
    assert seen == [1]


def test_not_called_once_it_has_ended(place):
    write(place, '')
    seen = []
    when_imported(NAME, lambda: seen.append(1))()
    importlib.import_module(NAME)
    assert seen == []


def test_a_module_looks_as_it_would(place, waits):
    write(place, '')
    waits(NAME)
    module = importlib.import_module(NAME)
    loader = importlib.util.spec_from_file_location(NAME, place / f'{NAME}.py').loader
    assert type(module.__loader__) is type(module.__spec__.loader) is type(loader)


def test_a_failed_import_fails_and_a_later_one_counts(place, waits):
    write(place, 'raise ValueError("no")')
    seen, failures = [], []
    waits(NAME, lambda: seen.append(1), failed=failures.append)
    for _ in range(2):
        with pytest.raises(ValueError, match='no'):
            importlib.import_module(NAME)
        assert NAME not in sys.modules
    assert seen == [] and len(failures) == 2
    write(place, 'value = "more than it had"')
    importlib.import_module(NAME)
    assert seen == [1]


@pytest.mark.parametrize('times', [1, 2])
def test_once_more(place, waits, times):
    (place / 'count').write_text('0')
    write(
        place,
        'from pathlib import Path\n'
        'file = Path(__file__).parent / "count"\n'
        'count = int(file.read_text()) + 1\n'
        'file.write_text(str(count))\n'
        f'if count <= {times}: raise ValueError(f"failure {{count}}")',
    )
    seen, failures = [], []
    waits(NAME, lambda: seen.append(1), failed=failures.append, once_more=lambda error: True)
    if times == 1:
        assert importlib.import_module(NAME).count == 2
        assert (seen, failures) == ([1], [])
    else:  # the first error tells more than the second
        with pytest.raises(ValueError, match='failure 1'):
            importlib.import_module(NAME)
        assert seen == [] and len(failures) == 1


def test_a_missing_module_is_missing(waits):
    failures = []
    waits('there_is_no_such_module', failed=failures.append)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('there_is_no_such_module')
    assert failures == [] and importlib.util.find_spec('there_is_no_such_module') is None


def test_what_the_callback_raises_is_raised_by_the_import(place, waits):
    def fail() -> None:
        raise RuntimeError('not now')

    write(place, '')
    waits(NAME, fail)
    with pytest.raises(RuntimeError, match='not now'):
        importlib.import_module(NAME)
    assert NAME not in sys.modules


def test_a_module_that_is_being_imported(place, waits, monkeypatch):
    """The call comes with the next import after it."""
    write(place, 'import builtins; builtins.begin(); value = 1')
    (place / 'another_one.py').write_text('')
    seen = []

    def begin() -> None:
        assert not is_imported(NAME)
        waits(NAME, lambda: seen.append(sys.modules[NAME].value))
        assert seen == []

    monkeypatch.setattr('builtins.begin', begin, raising=False)
    importlib.import_module(NAME)
    monkeypatch.delitem(sys.modules, 'another_one', raising=False)
    importlib.import_module('another_one')
    assert seen == [1]


class AsksAll(MetaPathFinder):
    """Another finder that asks all finders, as other packages' import hooks do."""

    def __init__(self) -> None:
        self.asked = 0

    def find_spec(self, name, path, target=None):
        if name != NAME or self.asked > 20:
            return None
        self.asked += 1
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
        return next((spec for spec in specs if spec is not None), None)


@pytest.mark.parametrize('at', [0, 1])
def test_beside_another_finder(place, waits, monkeypatch, at):
    write(place, '')
    seen = []
    waits(NAME, lambda: seen.append(1))
    other = AsksAll()
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    sys.meta_path.insert(at, other)
    importlib.import_module(NAME)
    assert seen == [1] and 0 < other.asked < 20


def test_many_threads(place, waits):
    write(place, 'import time; time.sleep(0.2); value = 1')
    seen, found = [], []
    waits(NAME, lambda: seen.append(1))

    def work() -> None:
        found.append(importlib.import_module(NAME).value)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [1] and found == [1] * 8

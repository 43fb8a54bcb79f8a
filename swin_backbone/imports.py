"""Callbacks that run when a module is imported, and attributes that import their module.

This file imports the standard library only, so that importing the package is fast.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .moved import new_path


def when_imported(
    name: str,
    callback: Callable[[], object] | None = None,
    *,
    failed: Callable[[Exception], object] | None = None,
    once_more: Callable[[Exception], bool] | None = None,
) -> Callable[[], None]:
    """Calls a function each time that a module has been imported.

    If the module is already imported, the function is called immediately. If it is being imported,
    the function is called at the next import of any module after that.

    Args:
        name: The module's full name.
        callback: Called after the module was executed. Its exceptions are raised by the import.
            It is called again after a reload.
        failed: Called with the exception of a failed import, which is raised nevertheless. A later
            import may still succeed.
        once_more: Called with that exception first. If it returns True, the module is executed a
            second time. If this fails too, the import fails with the first exception.

    Returns:
        A function that cancels the callbacks.
    """
    wait = _Wait(callback or (lambda: None), failed, once_more)
    with _watch.lock:
        _watch.waits.setdefault(name, []).append(wait)
        if _watch not in sys.meta_path:
            sys.meta_path.insert(0, _watch)
        underway = name in sys.modules and not is_imported(name)
        if underway:
            _watch.underway[name] = (*_watch.underway.get(name, ()), wait)
    if not underway and is_imported(name):
        wait.callback()

    def cancel() -> None:
        with _watch.lock:
            wait.ended = True
            _watch.waits[name] = [other for other in _watch.waits[name] if other is not wait]

    return cancel


def is_imported(name: str) -> bool:
    """Whether a module has been imported completely."""
    module = sys.modules.get(name)
    spec = getattr(module, '__spec__', None)
    return module is not None and not getattr(spec, '_initializing', False)


@dataclass(eq=False)
class _Wait:
    """The arguments of a call of :func:`when_imported`."""

    callback: Callable[[], object]
    failed: Callable[[Exception], object] | None
    once_more: Callable[[Exception], bool] | None
    ended: bool = False


class _Watch(MetaPathFinder):
    """The first finder on ``sys.meta_path``: asks the others, and wraps their loaders."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waits: dict[str, list[_Wait]] = {}
        self.underway: dict[str, tuple[_Wait, ...]] = {}
        self.asking = threading.local()  # names a thread looks up; other finders may ask this one

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.underway:
            self._call_for_complete()
        names = self.asking.__dict__.setdefault('names', set())
        if not self.waits.get(fullname) or fullname in names:
            return None
        names.add(fullname)
        try:
            spec = self._others(fullname, path, target)
        finally:
            names.discard(fullname)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _Loader(spec.loader)
        return spec

    def _others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, 'find_spec', None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                return spec
        return None

    def _call_for_complete(self) -> None:
        """Calls the callbacks of modules that were being imported when they were added."""
        with self.lock:
            over = [n for n in self.underway if n not in sys.modules or is_imported(n)]
            waits = [(name, self.underway.pop(name)) for name in over]
        for name, waiting in waits:
            for wait in waiting if is_imported(name) else ():
                if not wait.ended:
                    wait.callback()


class _Loader(Loader):
    """Wraps a loader and runs the callbacks after it has executed a module."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self.loader, 'create_module', None)
        return create(spec) if create else None

    def exec_module(self, module: ModuleType) -> None:
        # Restore the loader, of which other code requests resources and sources.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        waits = list(_watch.waits.get(module.__name__, ()))
        self._run(module, waits)
        for wait in waits:
            wait.callback()

    def _run(self, module: ModuleType, waits: Sequence[_Wait]) -> None:
        try:
            self.loader.exec_module(module)
        except Exception as error:
            if any(wait.once_more(error) for wait in waits if wait.once_more):
                with contextlib.suppress(Exception):  # the first exception is more useful
                    self.loader.exec_module(module)
                    return
            for wait in waits:
                if wait.failed:
                    wait.failed(error)
            raise


_watch = _Watch()


def lazy_attributes(
    package: str, sources: Mapping[str, str], submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that imports its names on first use.

    Args:
        package: Its ``__name__``.
        sources: The submodule of each name.
        submodules: Submodules that are attributes, as if the package had imported them.
    """
    modules = frozenset(submodules)

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f'{package}.{name}')
        if new_path(f'{package}.{name}'):
            return importlib.import_module(f'{package}.{name}')
        if name not in sources:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(importlib.import_module(f'{package}.{sources[name]}'), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *sources, *modules})

    return get, names

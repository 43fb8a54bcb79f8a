"""The published checkpoints by name: ``checkpoints/catalog.yml``, read and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ..errors import ArgumentError, CheckpointError

TASKS = (
    'classification',
    'self-supervised',
    'detection',
    'instance segmentation',
    'semantic segmentation',
    'panoptic segmentation',
    'video instance segmentation',
)
_HASH = re.compile(r'unverified|sha256:[0-9a-f]{8,64}')
_FAMILIES = {1: 'swin_', 2: 'swinv2_'}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _link(value: Any) -> bool:
    return _text(value) and urlsplit(value).scheme in ('http', 'https')


def _metrics(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_text(k) and _number(v) for k, v in value.items())


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


# What a field may be, and how messages say so.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'version': (lambda value: value in _FAMILIES, '1 or 2'),
    'window': (_or_none(_number), 'a positive number or null'),
    'resolution': (_or_none(_number), 'a positive number or null'),
    'data': (_or_none(_text), 'text or null'),
    'task': (lambda value: value in TASKS, f'one of {", ".join(TASKS)}'),
    'metrics': (_metrics, 'a mapping of names to positive numbers'),
    'source': (_link, 'an http(s) URL'),
    'publisher': (_text, 'text'),
    'url': (_link, 'an http(s) URL'),
    'hash': (
        lambda value: _text(value) and bool(_HASH.fullmatch(value)),
        "'unverified', or 'sha256:' and 8 to 64 hexadecimal digits",
    ),
    'file': (
        _or_none(lambda value: _text(value) and Path(value).name == value),
        'a file name without folders',
    ),
    'size': (_or_none(_number), 'a number of MiB or nothing'),
}


@dataclass(frozen=True)
class Entry:
    """A published checkpoint. The fields are described at the top of ``catalog.yml``.

    Raises:
        ArgumentError: A field is of another type or form; the message names entry and field.
    """

    name: str
    architecture: str
    version: int
    window: int | None
    resolution: int | None
    data: str | None
    task: str
    metrics: Mapping[str, float]
    source: str
    publisher: str
    url: str
    hash: str
    file: str | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        for field, (fits, expected) in _FIELDS.items():
            self._demand(fits(getattr(self, field)), field, expected)
        family = _FAMILIES[self.version]
        named = _text(self.architecture) and self.architecture.startswith(family)
        self._demand(named, 'architecture', f'a name that begins with {family!r}')
        self._demand(bool(self.file_name), 'url', 'one that ends in a file name, or file be given')

    def _demand(self, fits: bool, field: str, expected: str) -> None:
        if not fits:
            value = getattr(self, field)
            raise ArgumentError(f'{self.name}: {field} must be {expected}, is {value!r}')

    @property
    def file_name(self) -> str:
        """The name that the file has on disk."""
        return self.file or urlsplit(self.url).path.rsplit('/', 1)[-1]

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256, as published; '' where nothing is."""
        return '' if self.hash == 'unverified' else self.hash.removeprefix('sha256:')


def catalog_path() -> Path:
    """Where ``catalog.yml`` is: in the installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    inside = here / 'checkpoints' / 'catalog.yml'
    return inside if inside.is_file() else here.parent / 'checkpoints' / 'catalog.yml'


def read_catalog(path: Path) -> dict[str, Entry]:
    """The entries of a catalog file, by name.

    Raises:
        ArgumentError: The file is no mapping of names to fields, or a field is wrong.
    """
    content = yaml.load(path.read_text(), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    if not isinstance(content, Mapping):
        raise ArgumentError(f'{path}: expected a mapping of names to entries')
    known = {field.name for field in fields(Entry)} - {'name'}
    optional = {'file', 'size'}
    entries = {}
    for name, values in content.items():
        if not isinstance(values, Mapping):
            raise ArgumentError(f'{name}: expected a mapping of fields, is {values!r}')
        if wrong := set(values) - known:
            raise ArgumentError(f'{name}: unknown fields {sorted(wrong)}; known: {sorted(known)}')
        if missing := known - optional - set(values):
            raise ArgumentError(f'{name}: fields {sorted(missing)} are missing')
        entries[str(name)] = Entry(name=str(name), **values)
    return entries


@cache
def catalog() -> dict[str, Entry]:
    """The published checkpoints, by name."""
    return read_catalog(catalog_path())


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
        CheckpointError: There is none; the message names the nearest.
    """
    if name in catalog():
        return catalog()[name]
    raise CheckpointError(f'no published checkpoint is called {name!r}{nearest(name)}')


def find_url(url: str) -> Entry | None:
    """The entry whose file is at a URL."""
    return next((entry for entry in catalog().values() if entry.url == url), None)


def nearest(name: str) -> str:
    """The end of a message that a name is unknown: the names most like it."""
    close = difflib.get_close_matches(name, catalog(), n=3, cutoff=0.5)
    return f'; the nearest are {", ".join(close)}' if close else ''

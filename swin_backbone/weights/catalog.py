"""The published checkpoints by name: ``checkpoints/catalog.yml``, read and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
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
        def number(value: Any) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool) and value > 0

        def text(value: Any) -> bool:
            return isinstance(value, str) and bool(value.strip())

        def link(value: Any) -> bool:
            return text(value) and urlsplit(value).scheme in ('http', 'https')

        def metrics(value: Any) -> bool:
            return isinstance(value, Mapping) and all(
                text(k) and number(v) for k, v in value.items()
            )

        family = {1: 'swin_', 2: 'swinv2_'}.get(self.version, '')
        checks = {
            'version': (self.version in (1, 2), '1 or 2'),
            'architecture': (
                text(self.architecture) and self.architecture.startswith(family or '?'),
                f'a name that begins with {family!r}',
            ),
            'window': (self.window is None or number(self.window), 'a positive number or null'),
            'resolution': (
                self.resolution is None or number(self.resolution),
                'a positive number or null',
            ),
            'data': (self.data is None or text(self.data), 'text or null'),
            'task': (self.task in TASKS, f'one of {", ".join(TASKS)}'),
            'metrics': (metrics(self.metrics), 'a mapping of names to positive numbers'),
            'source': (link(self.source), 'an http(s) URL'),
            'publisher': (text(self.publisher), 'text'),
            'url': (link(self.url), 'an http(s) URL'),
            'hash': (
                text(self.hash) and bool(_HASH.fullmatch(self.hash)),
                "'unverified', or 'sha256:' and 8 to 64 hexadecimal digits",
            ),
            'file': (
                text(self.file_name) and Path(self.file_name).name == self.file_name,
                'a file name without folders',
            ),
            'size': (self.size is None or number(self.size), 'a number of MiB or nothing'),
        }
        for field, (fits, expected) in checks.items():
            if not fits:
                raise ArgumentError(
                    f'{self.name}: {field} must be {expected}, is {getattr(self, field)!r}'
                )

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

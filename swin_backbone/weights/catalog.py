"""The published checkpoints by name, from ``checkpoints/catalog.yml``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from ..errors import CheckpointError

TASKS = (
    'classification',
    'self-supervised',
    'detection',
    'instance segmentation',
    'semantic segmentation',
    'panoptic segmentation',
    'video instance segmentation',
)


@dataclass(frozen=True)
class Entry:
    """A published checkpoint. The top of ``catalog.yml`` describes the fields."""

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

    @property
    def file_name(self) -> str:
        """The file's name on disk."""
        return self.file or urlsplit(self.url).path.rsplit('/', 1)[-1]

    @property
    def digest(self) -> str:
        """The published first digits of the file's SHA-256; '' if there are none."""
        return '' if self.hash == 'unverified' else self.hash.removeprefix('sha256:')


def catalog_path() -> Path:
    """The path of ``catalog.yml`` in the installed package or in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / 'checkpoints' / 'catalog.yml'
    return inside if inside.is_file() else package.parent / 'checkpoints' / 'catalog.yml'


@cache
def catalog() -> dict[str, Entry]:
    """The published checkpoints by name."""
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    content = yaml.load(catalog_path().read_text(), loader)
    return {name: Entry(name=name, **fields) for name, fields in content.items()}


def find(name: str) -> Entry:
    """The entry with a name.

    Raises:
        CheckpointError: There is none; the message lists the nearest names.
    """
    if name in catalog():
        return catalog()[name]
    raise CheckpointError(f'no published checkpoint is called {name!r}{nearest(name)}')


def find_url(url: str) -> Entry | None:
    """The entry with a URL, or None."""
    return next((entry for entry in catalog().values() if entry.url == url), None)


def nearest(name: str) -> str:
    """The end of an error message about an unknown name, with similar names."""
    close = difflib.get_close_matches(name, catalog(), n=3, cutoff=0.5)
    return f'; the nearest are {", ".join(close)}' if close else ''

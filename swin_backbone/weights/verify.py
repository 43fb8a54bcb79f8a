"""Verifies a checkpoint file: its hash, layout and values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .catalog import catalog
from .download import hash_in_name, recorded_hash, sha256
from .inspect import describe
from .placeholders import listed, placeholders_in
from .safe_load import read_checkpoint
from .tensors import warn_of_non_finite


@dataclass(frozen=True)
class Check:
    """The name of a check, whether it passed (None: unknown), and what was found."""

    name: str
    passed: bool | None
    detail: str


def verify(path: Path) -> list[Check]:
    """Checks a file without writing anything or running code in it.

    Returns:
        ``published hash`` (of the catalog entry with that file name, or the one in the name),
        ``recorded hash`` (of the download), ``readable`` (as tensors and plain containers, except
        for the listed objects), ``layout`` (of a Swin Transformer) and ``finite`` (no NaN or
        infinity). The last two are missing if the file cannot be read.
    """
    actual = sha256(path)
    checks = [_published(path, actual), _recorded(path, actual)]
    try:
        content = read_checkpoint(path)
    except CheckpointError as error:
        return [*checks, Check('readable', False, str(error))]
    objects = placeholders_in(content)
    detail = f'but for {listed(objects)}' if objects else 'tensors and plain containers only'
    checks.append(Check('readable', True, detail))
    try:
        description = describe(content)
        found = f'{description.format}: {description.architecture or "custom"}, {description}'
        checks.append(Check('layout', True, found))
    except CheckpointError as error:
        checks.append(Check('layout', False, str(error)))
    wrong = warn_of_non_finite(content, str(path))
    detail = f'NaN or infinity in {", ".join(wrong[:4])}' if wrong else 'no NaN, no infinity'
    return [*checks, Check('finite', not wrong, detail)]


def _published(path: Path, actual: str) -> Check:
    entry = next((e for e in catalog().values() if e.file_name == path.name), None)
    digest = entry.digest if entry is not None else hash_in_name(path.name)
    if not digest:
        return Check('published hash', None, f'none is published; this one is {actual}')
    return Check('published hash', actual.startswith(digest), f'{digest}; this one is {actual}')


def _recorded(path: Path, actual: str) -> Check:
    recorded = recorded_hash(path)
    if not recorded:
        return Check('recorded hash', None, 'none was recorded at a download')
    return Check('recorded hash', recorded == actual, recorded)

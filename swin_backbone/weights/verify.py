"""Whether a checkpoint file is what it should be: hash, contents, numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .catalog import catalog
from .download import hash_in_name, record_path, sha256
from .file_checks import warn_of_non_finite
from .inspect import describe
from .safe_load import read_checkpoint
from .stand_ins import shown, stand_ins_in


@dataclass(frozen=True)
class Check:
    """A check's name, whether it passed (None: it cannot be told) and what was found."""

    name: str
    passed: bool | None
    detail: str


def verify(path: Path) -> list[Check]:
    """Checks a file; nothing is written and nothing in it is run.

    Returns:
        ``published hash`` (of the catalog's entry of that file name, or the one in the name),
        ``recorded hash`` (of its download), ``readable`` (as tensors and plain
        containers, but for objects that are named), ``layout`` (a Swin Transformer of a known one)
        and ``finite`` (no NaN or infinity). What cannot be read has no later checks.
    """
    actual = sha256(path)
    checks = [_published(path, actual), _recorded(path, actual)]
    try:
        content = read_checkpoint(path)
    except CheckpointError as error:
        return [*checks, Check('readable', False, str(error))]
    objects = stand_ins_in(content)
    detail = f'but for {shown(objects)}' if objects else 'tensors and plain containers only'
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
        detail = f'none is published; this one is {actual}'
        return Check('published hash', None, detail)
    return Check('published hash', actual.startswith(digest), f'{digest}; this one is {actual}')


def _recorded(path: Path, actual: str) -> Check:
    record = record_path(path)
    recorded = record.read_text().split()[:1] if record.is_file() else []
    if not recorded:
        return Check('recorded hash', None, 'none was recorded at a download')
    return Check('recorded hash', recorded == [actual], recorded[0])

"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` once the block has written it.

    The temporary file has the same name, in a hidden folder beside ``path``. An exception in the
    block removes it and leaves ``path`` as it was.

    Raises:
        FileNotFoundError: The folder of ``path`` does not exist.
        IsADirectoryError: ``path`` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f'no folder {path.parent} to write {path.name} to')
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder')
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.part-') as folder:
        part = Path(folder, path.name)
        yield part
        move_into_place(part, path)


def write(path: str | Path, content: str | bytes) -> None:
    """Writes text (UTF-8) or bytes to a file; a reader sees the old content or the new one."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def move_into_place(part: Path, final: Path, *, flush: bool = True) -> None:
    """Renames a complete file or folder, which replaces ``final``.

    Its content is flushed to the disk first, so that a crash of the machine cannot lose it either.

    A folder cannot replace another one in a single step: if the process is killed in between,
    ``final`` is missing, and never incomplete.
    """
    if flush:
        for file in part.rglob('*') if part.is_dir() else [part]:
            _flush(file)
    former = final.with_name(f'.{final.name}.old')
    remove(former)  # left by a process that was killed
    if final.is_dir():
        final.rename(former)
    os.replace(part, final)
    remove(former)
    if flush:
        with contextlib.suppress(OSError):  # not every file system flushes folders
            _flush(final.parent)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

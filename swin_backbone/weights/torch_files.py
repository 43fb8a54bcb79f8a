"""Reads files of ``torch.save`` and ``pickle.dump``, including those with unknown classes.

Files that ``torch.load(weights_only=True)`` refuses are read by :mod:`.unpickler`, with
placeholders for the objects of unknown classes. There are three formats:

* zip, written by ``torch.save`` since 1.6: a folder with ``data.pkl``, and one file ``data/{key}``
  per storage;
* legacy, written before: pickles of a magic number, a version, the machine, the object and the
  storages' keys; then the size and the bytes of each storage, in the order of the keys;
* a plain pickle, such as detectron2's.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch.serialization import default_restore_location

from ..errors import CheckpointError
from . import rebuild
from .placeholders import Placeholder, check_weights_were_read
from .rebuild import Storage
from .traversal import weights_in
from .unpickler import Unpickler

_ZIP = b'PK\x03\x04'
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_LEGACY = pickle.dumps(_MAGIC, 2)
_PROTOCOL = b'\x80\x02'  # torch.save's; torch.load lacks opcodes of the others
# The local header of a zip entry, which ends in the lengths of its name and of its extra field.
_LOCAL_HEADER = struct.Struct('<26x2H')
# Moves a storage, given the device that it was saved from.
Restore = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def load(path: Path, map_location: Any = None, mmap: bool = False) -> Any:
    """Reads a file.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Whether tensors are read from the disk on access. Only zip files support it.

    Raises:
        pickle.UnpicklingError: The file requires an operation that is not allowed.
        CheckpointError: Its weights are objects of classes that are not allowed, or it is a plain
            pickle without weights.
        Exception: The file is damaged.
    """
    with path.open('rb') as file:
        head = file.read(len(_LEGACY))
        entries = _Entries(file) if head.startswith(_ZIP) else None
        if head == _LEGACY or (entries and entries.read('data.pkl').startswith(_PROTOCOL)):
            options: dict[str, Any] = dict(mmap=True) if mmap else {}
            with contextlib.suppress(pickle.UnpicklingError):
                return torch.load(path, map_location=map_location, weights_only=True, **options)
        file.seek(0)
        restore = _restore(map_location)
        content = _read_zip(entries, restore, mmap) if entries else _read_pickles(file, restore)
    check_weights_were_read(content, str(path))
    if not entries and next(weights_in(content), None) is None:
        raise CheckpointError(
            f'{path} is no checkpoint: a pickle without tensors or arrays by name'
        )
    return content


def _restore(map_location: Any) -> Restore:
    """Implements ``map_location`` like ``torch.load``."""

    def restore(memory: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        if isinstance(map_location, str | torch.device):
            location = str(map_location)
        elif isinstance(map_location, Mapping):
            location = map_location.get(location, location)
        elif map_location is not None:
            moved = map_location(memory, location)
            if moved is not None:
                return moved
        return default_restore_location(memory, location)

    return restore


# --- storages -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StorageId:
    """A storage as described by a persistent id."""

    dtype: torch.dtype
    key: str  # name in the file
    location: str  # device that it was saved from
    count: int  # number of values
    view: tuple[str, int, int] | None = None  # in legacy files: name, first value, number of values

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


def _parsed(name: Any) -> _StorageId | Placeholder:
    """Parses the persistent id of a storage. If a placeholder is in it, the result is that."""
    parts = name if isinstance(name, tuple) else (name,)
    if (placeholder := next((p for p in parts if isinstance(p, Placeholder)), None)) is not None:
        return placeholder
    if len(parts) in (5, 6) and parts[0] == 'storage':
        found = _StorageId(*parts[1:])
        counts = (found.count, *(found.view or ())[1:])
        texts = (found.key, found.location, *(found.view or ())[:1])
        if (
            isinstance(found.dtype, torch.dtype)
            and all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count >= 0 for count in counts)
        ):
            return found
    raise pickle.UnpicklingError('refused a persistent id that names no storage')


def _filled(file: BinaryIO, nbytes: int) -> torch.UntypedStorage:
    """A storage filled with the next ``nbytes`` bytes of a file."""
    start = file.tell()
    if file.seek(0, os.SEEK_END) - start < nbytes:
        raise EOFError(f'{nbytes} bytes are expected beyond the end of the file')
    file.seek(start)
    memory = torch.UntypedStorage(nbytes)
    if nbytes:
        file.readinto(torch.empty(0, dtype=torch.uint8).set_(memory).numpy())  # type: ignore[attr-defined]
    return memory


# --- zip ------------------------------------------------------------------------------------------


def _read_zip(entries: _Entries, restore: Restore, mmap: bool) -> Any:
    storages = _ZipStorages(entries, restore, mmap)
    pickled = io.BytesIO(entries.read('data.pkl'))
    return Unpickler(pickled, rebuild.allowed_globals(), rebuild.allowed_classes, storages).load()


class _Entries:
    """The entries of torch's zip files, which are not compressed, and their sizes in bytes."""

    def __init__(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        folder = entries[0].filename.split('/')[0]
        self.file = file
        self.sizes = {e.filename.removeprefix(f'{folder}/'): e.file_size for e in entries}
        self._headers = {e.filename.removeprefix(f'{folder}/'): e.header_offset for e in entries}

    def read(self, name: str) -> bytes:
        """The content of an entry."""
        self.file.seek(self.start(name))
        return self.file.read(self.sizes[name])

    def start(self, name: str) -> int:
        """The offset of an entry's content. Checksums are ignored: torch may not write them."""
        header = self._headers[name]
        self.file.seek(header)
        lengths = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        return header + _LOCAL_HEADER.size + sum(lengths)


class _ZipStorages:
    """Loads the storages of a zip file by their persistent ids."""

    def __init__(self, entries: _Entries, restore: Restore, mmap: bool) -> None:
        self._entries, self._restore = entries, restore
        self._whole = _mapped(entries.file) if mmap else None
        self._found: dict[str, torch.UntypedStorage] = {}
        known = 'byteorder' in entries.sizes
        self._swapped = known and entries.read('byteorder').decode() != sys.byteorder

    def __call__(self, name: Any) -> Storage | Placeholder:
        wanted = _parsed(name)
        if isinstance(wanted, Placeholder):
            return wanted
        if wanted.key not in self._found:
            memory = self._memory(f'data/{wanted.key}', wanted.nbytes)
            if self._swapped:
                memory.byteswap(wanted.dtype)
            self._found[wanted.key] = self._restore(memory, wanted.location)
        return Storage(self._found[wanted.key], wanted.dtype)

    def _memory(self, name: str, nbytes: int) -> torch.UntypedStorage:
        if nbytes > self._entries.sizes[name]:
            raise pickle.UnpicklingError(f'refused a storage of {nbytes} bytes: {name} has fewer')
        start = self._entries.start(name)
        if self._whole is not None:
            return cast('torch.UntypedStorage', self._whole[start : start + nbytes])
        self._entries.file.seek(start)
        return _filled(self._entries.file, nbytes)


def _mapped(file: BinaryIO) -> torch.UntypedStorage:
    size = os.fstat(file.fileno()).st_size
    return cast('torch.UntypedStorage', torch.UntypedStorage.from_file(file.name, False, size))


# --- legacy and plain pickles ---------------------------------------------------------------------


def _read_pickles(file: BinaryIO, restore: Restore) -> Any:
    """The content of a legacy file, or of a plain pickle."""
    # The tensors of a plain pickle hold their storages as nested legacy files.
    inner = {'torch.storage._load_from_bytes': lambda data: _storage(data, restore)}
    first = Unpickler(file, {**rebuild.allowed_globals(), **inner}, rebuild.allowed_classes).load()
    return _read_legacy(file, restore) if _is_magic(first) else first


def _storage(data: Any, restore: Restore) -> Storage:
    file = io.BytesIO(data)
    found = _read_legacy(file, restore) if _is_magic(Unpickler(file, {}).load()) else None
    if not isinstance(found, Storage):
        raise pickle.UnpicklingError('refused bytes that are no storage')
    return found


def _is_magic(value: Any) -> bool:
    return type(value) is int and value == _MAGIC


def _read_legacy(file: BinaryIO, restore: Restore) -> Any:
    """Reads what follows the magic number.

    The object is read twice: first for the sizes of the storages, which follow it in the file.
    """
    version, system = Unpickler(file, {}).load(), Unpickler(file, {}).load()
    if version != _VERSION or system.get('little_endian', True) != (sys.byteorder == 'little'):
        raise pickle.UnpicklingError('refused a file of another version, or of another byte order')
    start, table = file.tell(), rebuild.allowed_globals()
    wanted: dict[str, _StorageId] = {}

    def note(name: Any) -> Placeholder:
        found = _parsed(name)
        if isinstance(found, _StorageId):
            wanted.setdefault(found.key, found)
        return Placeholder('torch', 'Storage')

    Unpickler(file, table, rebuild.allowed_classes, note).load()
    storages = {
        key: _legacy_storage(file, wanted[key], restore) for key in Unpickler(file, {}).load()
    }

    def give(name: Any) -> Storage | Placeholder:
        found = _parsed(name)
        return found if isinstance(found, Placeholder) else _viewed(storages[found.key], found)

    file.seek(start)
    return Unpickler(file, table, rebuild.allowed_classes, give).load()


def _legacy_storage(file: BinaryIO, wanted: _StorageId, restore: Restore) -> torch.UntypedStorage:
    (count,) = struct.unpack('<q', file.read(8))
    if count != wanted.count:
        raise pickle.UnpicklingError(f'refused a storage of {count} numbers for {wanted.count}')
    return restore(_filled(file, wanted.nbytes), wanted.location)


def _viewed(memory: torch.UntypedStorage, wanted: _StorageId) -> Storage:
    if wanted.view is not None:
        _, first, count = wanted.view
        size = wanted.dtype.itemsize
        memory = cast('torch.UntypedStorage', memory[first * size : (first + count) * size])
    return Storage(memory, wanted.dtype)

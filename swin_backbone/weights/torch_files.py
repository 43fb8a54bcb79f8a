"""Reads what ``torch.save`` and ``pickle.dump`` write, though it hold objects of unknown classes.

``torch.load(weights_only=True)`` reads what it can. What it refuses is read by :mod:`.unpickler`,
with stand-ins for the objects of unknown classes; the formats are:

* zip, ``torch.save``'s since 1.6: a folder with ``data.pkl``, and a file of ``data/`` for each
  storage, whose key is in the pickle;
* legacy, before that: pickles of a magic number, a version, the machine, the object and the
  storages' keys; then, in the order of the keys, the size and the bytes of each storage;
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
from . import buildable
from .buildable import Storage
from .nested import weights_in
from .stand_ins import StandIn, check_weights_were_read
from .unpickler import Unpickler

_ZIP = b'PK\x03\x04'
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_LEGACY = pickle.dumps(_MAGIC, 2)
_PROTOCOL = b'\x80\x02'  # torch.save's, and the only one that torch.load knows all opcodes of
# Of an entry in a zip archive: the lengths of its name and of what else is before its content.
_LOCAL_HEADER = struct.Struct('<26x2H')
# Takes a storage that was saved from a device to where it is wanted.
Restore = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def load(path: Path, map_location: Any = None, mmap: bool = False) -> Any:
    """What is in a file.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Whether tensors stay on the disk until they are looked at; of zip files alone.

    Raises:
        pickle.UnpicklingError: The file asks for what is not done.
        CheckpointError: Its weights are objects of classes that are not allowed, or it is a plain
            pickle without weights.
        Exception: Of any other kind, where the file is damaged.
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
    """What ``map_location`` means to torch."""

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
class _Wanted:
    """A storage as a persistent id names it.

    Attributes:
        dtype: Of its numbers.
        key: Its name in the file.
        location: The device that it was saved from.
        count: Number of its numbers.
        view: Of a legacy file's view into it: a name, the first number and their count; or None.
    """

    dtype: torch.dtype
    key: str
    location: str
    count: int
    view: tuple[str, int, int] | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


def _wanted(name: Any) -> _Wanted | StandIn:
    """The storage that a persistent id names; a stand-in where one is in it.

    Raises:
        pickle.UnpicklingError: It names none.
    """
    parts = name if isinstance(name, tuple) else (name,)
    if (stand_in := next((p for p in parts if isinstance(p, StandIn)), None)) is not None:
        return stand_in
    if len(parts) not in (5, 6) or parts[0] != 'storage':
        raise pickle.UnpicklingError('refused a persistent id that names no storage')
    wanted = _Wanted(*parts[1:])
    counts = (wanted.count, *(wanted.view or ())[1:])
    texts = (wanted.key, wanted.location, *(wanted.view or ())[:1])
    if (
        not isinstance(wanted.dtype, torch.dtype)
        or not all(isinstance(text, str) for text in texts)
        or not all(type(count) is int and count >= 0 for count in counts)
    ):
        raise pickle.UnpicklingError('refused a persistent id that names no storage')
    return wanted


def _filled(file: BinaryIO, nbytes: int) -> torch.UntypedStorage:
    """The next bytes of a file.

    Raises:
        EOFError: There are fewer.
    """
    start = file.tell()
    if file.seek(0, os.SEEK_END) - start < nbytes:
        raise EOFError(f'{nbytes} bytes are wanted where the file ends')
    file.seek(start)
    memory = torch.UntypedStorage(nbytes)
    if nbytes:
        file.readinto(torch.empty(0, dtype=torch.uint8).set_(memory).numpy())  # type: ignore[attr-defined]
    return memory


# --- zip ------------------------------------------------------------------------------------------


def _read_zip(entries: _Entries, restore: Restore, mmap: bool) -> Any:
    storages = _ZipStorages(entries, restore, mmap)
    pickled = io.BytesIO(entries.read('data.pkl'))
    return Unpickler(pickled, buildable.table(), buildable.classes, storages).load()


class _Entries:
    """The entries of a zip file of torch's, which are as they are, not compressed.

    Attributes:
        file: The file.
        sizes: Their sizes in bytes, by their names in the file's one folder.
    """

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
        """Where an entry's content is. Its checksum is not looked at: torch may write none."""
        header = self._headers[name]
        self.file.seek(header)
        lengths = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        return header + _LOCAL_HEADER.size + sum(lengths)


class _ZipStorages:
    """The storages of a zip file, by their persistent ids."""

    def __init__(self, entries: _Entries, restore: Restore, mmap: bool) -> None:
        self._entries, self._restore = entries, restore
        self._whole = _mapped(entries.file) if mmap else None
        self._found: dict[str, torch.UntypedStorage] = {}
        known = 'byteorder' in entries.sizes
        self._swapped = known and entries.read('byteorder').decode() != sys.byteorder

    def __call__(self, name: Any) -> Storage | StandIn:
        wanted = _wanted(name)
        if isinstance(wanted, StandIn):
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
    # A plain pickle's tensors hold their storages as legacy files.
    inner = {'torch.storage._load_from_bytes': lambda data: _storage(data, restore)}
    first = Unpickler(file, {**buildable.table(), **inner}, buildable.classes).load()
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
    """What follows the magic number.

    The object is read twice: at first for the storages, which come after it and whose sizes are in
    it.
    """
    version, system = Unpickler(file, {}).load(), Unpickler(file, {}).load()
    if version != _VERSION or system.get('little_endian', True) != (sys.byteorder == 'little'):
        raise pickle.UnpicklingError('refused a file of another version, or of another byte order')
    start, table = file.tell(), buildable.table()
    wanted: dict[str, _Wanted] = {}

    def note(name: Any) -> StandIn:
        found = _wanted(name)
        if isinstance(found, _Wanted):
            wanted.setdefault(found.key, found)
        return StandIn('torch', 'Storage')

    Unpickler(file, table, buildable.classes, note).load()
    storages = {
        key: _legacy_storage(file, wanted[key], restore) for key in Unpickler(file, {}).load()
    }

    def give(name: Any) -> Storage | StandIn:
        found = _wanted(name)
        return found if isinstance(found, StandIn) else _viewed(storages[found.key], found)

    file.seek(start)
    return Unpickler(file, table, buildable.classes, give).load()


def _legacy_storage(file: BinaryIO, wanted: _Wanted, restore: Restore) -> torch.UntypedStorage:
    (count,) = struct.unpack('<q', file.read(8))
    if count != wanted.count:
        raise pickle.UnpicklingError(f'refused a storage of {count} numbers for {wanted.count}')
    return restore(_filled(file, wanted.nbytes), wanted.location)


def _viewed(memory: torch.UntypedStorage, wanted: _Wanted) -> Storage:
    if wanted.view is not None:
        _, first, count = wanted.view
        size = wanted.dtype.itemsize
        memory = cast('torch.UntypedStorage', memory[first * size : (first + count) * size])
    return Storage(memory, wanted.dtype)

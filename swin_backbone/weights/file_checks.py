"""Checks of a checkpoint file before it is unpickled."""

from __future__ import annotations

import mmap
import zipfile
from pathlib import Path

from ..errors import CheckpointError
from .safetensors_files import kind_of, library

_ZIP, _TAR_NAME, _PICKLE = b'PK\x03\x04', b'ustar', b'\x80'
# The only allowed callable that allocates any amount of memory from a few bytes of pickle.
_ALLOCATORS = (b'cbuiltins\nbytearray\n', b'c__builtin__\nbytearray\n')


def check_file(path: Path, title: str | None = None) -> None:
    """Rejects files that are not checkpoints, by their first bytes and their table of contents.

    Reads a few kilobytes. A file in the format of torch before 1.6 is scanned as a whole through a
    memory map.

    Args:
        path: The file.
        title: Its name in messages; default: the path.

    Raises:
        CheckpointError: The path is a folder; or the file is empty, truncated or text, a
            TorchScript or tar archive, a zip archive whose entries are larger than the file, or a
            pickle that allocates memory.
    """
    title = title or str(path)
    if path.is_dir():
        raise CheckpointError(
            f'{title} is a folder without a rank0.pth; a checkpoint is a file, or a folder with '
            'one file per process'
        )
    with path.open('rb') as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f'{title} is empty (0 bytes); is it cut short?')
    if head.startswith(_ZIP):
        _check_zip(path, title)
    elif head.startswith(_PICKLE):
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _refuse_allocators(data, title)
    elif head[257:262] == _TAR_NAME:
        raise CheckpointError(
            f"{title} is a tar archive; torch's oldest format cannot be read safely. Save it again "
            'with a current torch'
        )
    elif (kind := kind_of(path)) == 'safetensors':
        _check_safetensors(path, title)
    elif kind is None:
        raise CheckpointError(f'{title} is refused or is no checkpoint: {_guess(head)}')


def _check_zip(path: Path, title: str) -> None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if any(n.endswith('/constants.pkl') or '/code/' in n for n in names):
                raise CheckpointError(
                    f'{title} is a TorchScript archive, which is a program; save '
                    "the module's state_dict() instead"
                )
            declared = sum(entry.file_size for entry in entries)
            # torch does not compress entries, so that their total is less than the file's size.
            if declared > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise CheckpointError(
                    f'{title} is refused: its entries declare {declared} bytes, the file has '
                    f'{size}, and no checkpoint is compressed; unpacking it could fill the memory'
                )
            for entry in entries:
                if entry.filename.endswith('.pkl'):
                    _refuse_allocators(archive.read(entry), title)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(f'{title} cannot be read; is it cut short? {error}') from None


def _refuse_allocators(pickled: bytes | mmap.mmap, title: str) -> None:
    if any(pickled.find(call) >= 0 for call in _ALLOCATORS):
        raise CheckpointError(f'{title} is refused: it calls bytearray, which can fill the memory')


def _check_safetensors(path: Path, title: str) -> None:
    safetensors = library()
    try:
        with safetensors.safe_open(path, 'pt'):  # checks the header and the file's size
            pass
    except safetensors.SafetensorError as error:
        raise CheckpointError(f'{title} cannot be read; is it cut short? {error}') from None


def _guess(head: bytes) -> str:
    """What a file that is not a checkpoint seems to be."""
    start = head.lstrip().lower()
    if start.startswith((b'<!doctype', b'<html', b'<?xml')):
        return "it is a web page, perhaps a server's error message"
    if start.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS; fetch the file that it points to'
    text = head.decode(errors='replace')[:40]
    if '\0' in text or '\N{REPLACEMENT CHARACTER}' in text:
        return f'it begins with the bytes {head[:8].hex(" ")}, as no checkpoint does'
    return f'it is a text file that begins with {text!r}'

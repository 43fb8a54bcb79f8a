"""What is told of a checkpoint file before anything in it is unpickled, and of its values after."""

from __future__ import annotations

import contextlib
import io
import mmap
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from ..errors import CheckpointError
from .nested import weights_in
from .plain import form, is_plain
from .shards import kind_of, library

_ZIP, _TAR_NAME, _PICKLE = b'PK\x03\x04', b'ustar', b'\x80'
# The one allowed callable that makes any amount of memory from a few bytes.
_ALLOCATORS = (b'cbuiltins\nbytearray\n', b'c__builtin__\nbytearray\n')
# What checkpoints of tensors, and mmengine's, refer to.
_EXPECTED = re.compile(
    r'collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch(\.storage)?\.\w+Storage|'
    r'torch\.nn\.parameter\.Parameter|torch\.Size|torch\.\w+\d+|torch\._tensor\.\w+|'
    r'numpy\.(dtype|ndarray|dtypes\.\w+|(_core|core)\.(multiarray|numeric)\.\w+)|'
    r'mmengine\.logging\.history_buffer\.HistoryBuffer'
)
# How the names of a Swin's weights end.
FLOATS = (
    *('.weight', '.bias', 'relative_position_bias_table', 'absolute_pos_embed'),
    *('logit_scale', 'q_bias', 'v_bias', 'relative_coords_table'),  # V2's
)


def check_file(path: Path, title: str | None = None) -> None:
    """Refuses what is no checkpoint of weights, from its first bytes and its table of contents.

    Reads a few kilobytes, and of a file in torch's format before 1.6 all of it, through a memory
    map.

    Args:
        path: The file.
        title: How messages call it; default: its path.

    Raises:
        CheckpointError: A folder; an empty, cut short or text file; a TorchScript or tar archive; a
            zip archive whose entries are larger than the file; a pickle that allocates memory.
    """
    title = title or str(path)
    if path.is_dir():
        raise CheckpointError(
            f'{title} is a folder, and has no rank0.pth; a checkpoint is a file, or a folder of '
            'one file a process'
        )
    with path.open('rb') as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f'{title} is empty (0 bytes); is it cut short?')
    if head.startswith(_ZIP):
        _check_zip(path, title)
    elif head.startswith(_PICKLE):
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as all_:
            _refuse_allocators(all_, title)
    elif head[257:262] == _TAR_NAME:
        raise CheckpointError(
            f"{title} is a tar archive; torch's oldest format cannot be read safely. Save it anew"
        )
    elif (kind := kind_of(path)) == 'safetensors':
        _check_safetensors(path, title)
    elif kind is None:
        raise CheckpointError(f'{title} is refused or is no checkpoint: {_looks(head)}')


def check_floats(checkpoint: Any, title: str) -> None:
    """Refuses a Swin's weights that are no tensors of floating point numbers.

    Raises:
        CheckpointError: Some are not; the message lists them.
    """
    wrong = []
    for key, value in _weights(checkpoint):
        if not key.endswith(FLOATS):
            continue
        if isinstance(value, Tensor) and not value.is_floating_point():
            wrong.append(f'{key}: found {value.dtype}')
        elif not is_plain(value):
            wrong.append(f'{key}: found {form(value)}')
        elif not value.is_meta and value.numel() > _stored(value).numel():
            stored = _stored(value).numel()
            wrong.append(f'{key}: found {tuple(value.shape)} made of {stored} values')
    if wrong:
        raise CheckpointError(
            f'{title}: {len(wrong)} weights are not floating point tensors:\n    '
            + '\n    '.join(wrong[:8])
        )


def warn_of_non_finite(checkpoint: Any, title: str) -> list[str]:
    """Warns, once a file, of weights that hold NaN or infinity.

    Returns:
        Their keys.
    """
    keys = [key for key, value in _weights(checkpoint) if not _finite(value)]
    if keys:
        more = ', …' if len(keys) > 8 else ''
        print_log(
            f'{title}: NaN or infinity in {len(keys)} weights: {", ".join(keys[:8])}{more}',
            logger='current',
            level=30,
        )
    return keys


def foreign_names(path: Path) -> list[str]:
    """What a file's pickles, or those of a folder's files, refer to by name.

    Less what tensors and mmengine's checkpoints need.
    """
    if path.is_dir():
        return [name for file in sorted(path.glob('*.pth')) for name in foreign_names(file)]
    with path.open('rb') as file:
        head = file.read(1 << 20)
    if head.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(n) for n in archive.namelist() if n.endswith('.pkl')]
    else:
        pickles = [head]
    names = [name for pickled in pickles for name in _names(pickled)]
    return list(dict.fromkeys(name for name in names if not _EXPECTED.fullmatch(name)))


def _names(pickled: bytes) -> Iterator[str]:
    strings: list[str] = []
    stream = io.BytesIO(pickled)
    with contextlib.suppress(ValueError):  # where the pickles end, or are cut
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == 'GLOBAL':
                    yield str(argument).replace(' ', '.')
                elif opcode.name == 'STACK_GLOBAL':
                    yield '.'.join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)


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
            # torch stores entries as they are, so together they are smaller than the file.
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
        with safetensors.safe_open(path, 'pt'):  # reads the header, and the file's size
            pass
    except safetensors.SafetensorError as error:
        raise CheckpointError(f'{title} cannot be read; is it cut short? {error}') from None


def _looks(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b'<!doctype', b'<html', b'<?xml')):
        return "it is a web page, perhaps a server's error message"
    if start.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS; fetch the file that it stands for'
    text = head.decode(errors='replace')[:40]
    if '\0' in text or '\N{REPLACEMENT CHARACTER}' in text:
        return f'it begins with the bytes {head[:8].hex(" ")}, as no checkpoint does'
    return f'it is a text file that begins with {text!r}'


def _weights(checkpoint: Any) -> Iterator[tuple[str, Any]]:
    """The key and value pairs of the state dicts in a checkpoint."""
    if not isinstance(checkpoint, Mapping):
        return
    inner = [
        checkpoint[k] for k in ('state_dict', 'model') if isinstance(checkpoint.get(k), Mapping)
    ]
    for state_dict in inner or [checkpoint]:
        yield from ((k, v) for k, v in state_dict.items() if isinstance(k, str))
    seen = {id(state_dict) for state_dict in inner or [checkpoint]}
    for _, state_dict in weights_in(checkpoint):
        if id(state_dict) not in seen:
            seen.add(id(state_dict))
            yield from (
                (k, v)
                for k, v in state_dict.items()
                if isinstance(k, str) and not isinstance(v, Mapping)
            )


def _finite(value: Any) -> bool:
    if not is_plain(value) or not value.is_floating_point() or value.is_meta:
        return True
    stored = _stored(value)
    looked_at = stored if value.numel() > stored.numel() else value
    # Eight-bit floats can be converted, and little else.
    looked_at = looked_at.float() if looked_at.element_size() < 2 else looked_at
    return bool(torch.isfinite(looked_at).all())


def _stored(value: Tensor) -> Tensor:
    """The values behind a tensor: of an expanded one there are fewer than it has elements."""
    storage = value.untyped_storage()
    count = storage.nbytes() // value.element_size()
    return value.detach().new_empty(0).set_(storage, 0, (count,), (1,))

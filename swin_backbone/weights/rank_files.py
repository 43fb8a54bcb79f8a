"""Checkpoints in one file a process, ``iter_5.pth/rank0.pth`` and so on: split, and put together.

Each file is a checkpoint as mmengine writes it, of plain tensors. Of a tensor that the processes
share it has consecutive rows, along the first dimension; which ones and of what is under
``LAYOUT``::

    dict(rank=0, ranks=2, rows={('state_dict', 'head.weight'): (0, (10, 768)), …})
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import torch_files
from .file_checks import check_file

LAYOUT = 'shards'
# In folders of other formats, DeepSpeed's, the file of the plain model's weights.
PLAIN_WEIGHTS = 'weights.pth'
Address = tuple[Any, ...]  # the keys that lead to a tensor


@dataclass(frozen=True)
class Rows:
    """A tensor whose rows lie in several files.

    Attributes:
        shape: Of the whole tensor.
        pieces: First row and rows of each file that has some, in order and without gaps.
    """

    shape: tuple[int, ...]
    pieces: tuple[tuple[int, Tensor], ...]

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """A copy of ``count`` rows from ``first`` on, fewer where the tensor ends before; or all.

        No other rows are read from the disk.
        """
        end = self.shape[0] if count is None else first + count
        chosen = [rows[max(first - at, 0) : max(end - at, 0)] for at, rows in self.pieces]
        return torch.cat(chosen)


def is_rank_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder of one file a process."""
    return rank_file(path, 0).is_file()


def file_in(folder: str | os.PathLike) -> Path | None:
    """The file in a checkpoint's folder that tells what it is: the first process's, or weights."""
    files = (rank_file(folder, 0), Path(folder) / PLAIN_WEIGHTS)
    return next((file for file in files if file.is_file()), None)


def rank_file(folder: str | os.PathLike, rank: int) -> Path:
    """Where a process's file is."""
    return Path(folder) / f'rank{rank}.pth'


def split(
    content: dict[str, Any],
    rank: int,
    ranks: int,
    local: Callable[[Any], tuple[Tensor, int, tuple[int, ...]] | None],
) -> None:
    """Makes what one process saves of a checkpoint, in place.

    Args:
        content: The checkpoint; dicts and lists of values.
        rank: The process.
        ranks: Number of processes.
        local: For a value that the processes share the process's rows, the first one's number and
            the shape of the whole; None for all other values.
    """
    layout: dict[Address, tuple[int, tuple[int, ...]]] = {}

    def plain(value: Any, address: Address) -> Any:
        found = local(value)
        if found is None:
            return value
        rows, first, shape = found
        layout[address] = (first, tuple(shape))
        return rows

    for key, value in content.items():
        content[key] = _mapped(value, plain, (key,))
    content[LAYOUT] = dict(rank=rank, ranks=ranks, rows=layout)


def join(
    folder: str | os.PathLike,
    take: Callable[[Rows], Any] = Rows.read,
    rank: int = 0,
    ranks: int | None = None,
) -> dict[str, Any]:
    """The checkpoint in a folder of one file a process. No code in it is run.

    Args:
        folder: The folder.
        take: Makes a value of each tensor that was split; default: the whole tensor.
        rank: Whose values to take of what was not split but may differ.
        ranks: How many processes there are now: if not as many as there are files, the first one's
            values are taken.

    Raises:
        CheckpointError: A file is missing, cannot be read or is of another checkpoint; or it was
            not written by this package.
    """
    files = _open(Path(folder))
    layouts = [file.pop(LAYOUT)['rows'] for file in files]
    own = rank if ranks == len(files) else 0
    shapes = {address: shape for layout in layouts for address, (_, shape) in layout.items()}

    def whole(value: Any, address: Address) -> Any:
        if address not in shapes:
            return value
        found = [
            (layout[address][0], _at(file, address))
            for file, layout in zip(files, layouts, strict=True)
            if address in layout
        ]
        return take(_checked(Rows(tuple(shapes[address]), tuple(found)), folder, address))

    return {key: _mapped(value, whole, (key,)) for key, value in files[own].items()}


def missing_rank(folder: Path) -> str | None:
    """The name of a file that a folder should have and has not, if its first one tells."""
    try:
        layout = _load(rank_file(folder, 0)).get(LAYOUT, {})
    except pickle.UnpicklingError:  # refused: whoever loads it says why
        return None
    files = (rank_file(folder, rank) for rank in range(layout.get('ranks', 1)))
    return next((file.name for file in files if not file.is_file()), None)


def _load(file: Path) -> Any:
    check_file(file)
    return torch_files.load(file, map_location='cpu', mmap=True)


def _open(folder: Path) -> list[dict[str, Any]]:
    """What the files of all processes hold, read from the disk when it is looked at."""
    first = _load(rank_file(folder, 0))
    if not isinstance(first, Mapping) or LAYOUT not in first:
        raise CheckpointError(
            f'{folder} has a file a process, but they do not say how they go together, as those '
            'of swin_backbone.engine.fsdp.AnyDeviceFSDPStrategy do'
        )
    files: list[Any] = [first]
    for rank in range(1, first[LAYOUT]['ranks']):
        file = rank_file(folder, rank)
        if not file.is_file():
            raise CheckpointError(f'{folder} is not whole: {file.name} is not there')
        files.append(_load(file))
    stamps = {(f[LAYOUT]['ranks'], f['meta'].get('iter'), f['meta'].get('seed')) for f in files}
    if len(stamps) > 1 or [f[LAYOUT]['rank'] for f in files] != list(range(len(files))):
        raise CheckpointError(f'the files in {folder} are not of one checkpoint')
    return files


def _checked(rows: Rows, folder: Any, address: Address) -> Rows:
    """The rows, if they are all there."""
    pieces = tuple(sorted(((at, rows) for at, rows in rows.pieces if len(rows)), key=_first))
    expected = 0
    for first, piece in pieces:
        if first != expected or tuple(piece.shape[1:]) != rows.shape[1:]:
            break
        expected += len(piece)
    if not rows.pieces or expected != rows.shape[0]:
        raise CheckpointError(f'{folder}: rows of {"/".join(map(str, address))} are missing')
    return Rows(rows.shape, pieces or rows.pieces[:1])


def _first(piece: tuple[int, Tensor]) -> int:
    return piece[0]


def _at(content: Any, address: Address) -> Any:
    for key in address:
        content = content[key]
    return content


def _mapped(value: Any, function: Callable[[Any, Address], Any], address: Address) -> Any:
    """A copy of nested dicts and lists with a function applied to all other values in them."""
    if type(value) is list:
        return [_mapped(v, function, (*address, i)) for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {k: _mapped(v, function, (*address, k)) for k, v in value.items()}
    return function(value, address)

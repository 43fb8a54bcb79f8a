"""Checkpoints with one file per process, ``iter_5.pth/rank0.pth`` and so on.

Each file is a checkpoint as mmengine writes it, with plain tensors. Of a tensor that is split over
the processes it holds consecutive rows (dimension 0). ``content[LAYOUT]`` says which rows of which
shape::

    dict(rank=0, ranks=2, rows={('state_dict', 'head.weight'): (0, (10, 768)), …})
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import torch_files
from .file_checks import check_file

LAYOUT = 'shards'
# The file with the plain model's weights in folders of other formats, such as DeepSpeed's.
PLAIN_WEIGHTS = 'weights.pth'
Address = tuple[Any, ...]  # the keys that lead to a tensor


@dataclass(frozen=True)
class SplitTensor:
    """A tensor whose rows are in several files.

    Attributes:
        shape: Shape of the whole tensor.
        pieces: The first row's number and the rows in each file, in order and without gaps.
    """

    shape: tuple[int, ...]
    pieces: tuple[tuple[int, Tensor], ...]

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """A copy of up to ``count`` rows from ``first`` on, by default of all.

        No other rows are read from the disk.
        """
        end = self.shape[0] if count is None else first + count
        chosen = [rows[max(first - at, 0) : max(end - at, 0)] for at, rows in self.pieces]
        return torch.cat(chosen)


def is_rank_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with one file per process."""
    return rank_file(path, 0).is_file()


def file_in(folder: str | os.PathLike) -> Path | None:
    """The file that describes a checkpoint's folder: rank 0's, or the plain model's weights."""
    files = (rank_file(folder, 0), Path(folder) / PLAIN_WEIGHTS)
    return next((file for file in files if file.is_file()), None)


def rank_file(folder: str | os.PathLike, rank: int) -> Path:
    """The path of a process's file."""
    return Path(folder) / f'rank{rank}.pth'


def split(
    content: dict[str, Any],
    rank: int,
    ranks: int,
    local: Callable[[Any], tuple[Tensor, int, tuple[int, ...]] | None],
) -> None:
    """Reduces a checkpoint in place to the part that one process saves.

    Args:
        content: The checkpoint; nested dicts and lists.
        rank: The process.
        ranks: Number of processes.
        local: Returns the process's rows of a value that is split over the processes, the first
            row's number and the whole shape; None for all other values.
    """
    layout: dict[Address, tuple[int, tuple[int, ...]]] = {}

    def local_part(value: Any, address: Address) -> Any:
        found = local(value)
        if found is None:
            return value
        rows, first, shape = found
        layout[address] = (first, tuple(shape))
        return rows

    for key, value in content.items():
        content[key] = _mapped(value, local_part, (key,))
    content[LAYOUT] = dict(rank=rank, ranks=ranks, rows=layout)


def join(
    folder: str | os.PathLike,
    take: Callable[[SplitTensor], Any] = SplitTensor.read,
    rank: int = 0,
    ranks: int | None = None,
) -> dict[str, Any]:
    """Reads a folder with one file per process as one checkpoint. No code in it is run.

    Args:
        folder: The folder.
        take: Converts each split tensor; default: to the whole tensor.
        rank: The process whose file gives the values that were not split.
        ranks: Current number of processes. If it is not the number of files, rank 0's file gives
            the values that were not split.

    Raises:
        CheckpointError: A file is missing, cannot be read, or belongs to another checkpoint or to
            another program.
    """
    files = _open(Path(folder))
    layouts = [file.pop(LAYOUT)['rows'] for file in files]
    own = rank if ranks == len(files) else 0
    shapes = {address: shape for layout in layouts for address, (_, shape) in layout.items()}

    def whole(value: Any, address: Address) -> Any:
        if address not in shapes:
            return value
        pieces = [
            (layout[address][0], _at(file, address))
            for file, layout in zip(files, layouts, strict=True)
            if address in layout
        ]
        return take(_split_tensor(tuple(shapes[address]), pieces, folder, address))

    return {key: _mapped(value, whole, (key,)) for key, value in files[own].items()}


def missing_rank(folder: Path) -> str | None:
    """The name of a missing file of a folder, as far as rank 0's file tells."""
    try:
        layout = _load(rank_file(folder, 0)).get(LAYOUT, {})
    except pickle.UnpicklingError:  # loading the file reports the reason
        return None
    files = (rank_file(folder, rank) for rank in range(layout.get('ranks', 1)))
    return next((file.name for file in files if not file.is_file()), None)


def _load(file: Path) -> Any:
    check_file(file)
    return torch_files.load(file, map_location='cpu', mmap=True)


def _open(folder: Path) -> list[dict[str, Any]]:
    """The contents of all files; tensors are read from the disk on access."""
    first = _load(rank_file(folder, 0))
    if not isinstance(first, Mapping) or LAYOUT not in first:
        raise CheckpointError(
            f'{folder} has one file per process, but they do not say how they go together; only '
            'swin_backbone.engine.fsdp.AnyDeviceFSDPStrategy writes that'
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


def _split_tensor(
    shape: tuple[int, ...], pieces: list[tuple[int, Tensor]], folder: Any, address: Address
) -> SplitTensor:
    """A tensor of the pieces, which must cover all rows."""
    filled = sorted(((first, rows) for first, rows in pieces if len(rows)), key=itemgetter(0))
    expected = 0
    for first, rows in filled:
        if first != expected or tuple(rows.shape[1:]) != shape[1:]:
            break
        expected += len(rows)
    if not pieces or expected != shape[0]:
        raise CheckpointError(f'{folder}: rows of {"/".join(map(str, address))} are missing')
    return SplitTensor(shape, tuple(filled or pieces[:1]))


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

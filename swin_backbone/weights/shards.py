"""Files of weights that torch.save did not write: safetensors, and indices of shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

# The size that the safetensors format itself allows a header.
_LARGEST_HEADER = 100_000_000


def kind_of(path: str | os.PathLike) -> str | None:
    """``'safetensors'``, ``'index'`` or None for anything else, from the first bytes of a file."""
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= _LARGEST_HEADER:
        return 'safetensors'
    if start.lstrip().startswith(b'{'):
        return 'index'
    return None


def library() -> ModuleType:
    """The safetensors package, which its own files alone need.

    Raises:
        CheckpointError: It is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(
            f'safetensors files need the package of that name ({error}): pip install safetensors, '
            "or pip install 'swin_backbone[weights]'"
        ) from None
    return safetensors


def read_safetensors(path: str | os.PathLike, map_location: Any = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU or where ``map_location`` says.

    Raises:
        CheckpointError: The file is cut short or otherwise no safetensors file.
    """
    safetensors = library()
    device = map_location if isinstance(map_location, str | int) else None
    try:
        return safetensors.torch.load_file(path, device='cpu' if device is None else device)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f'{path} cannot be read; is it cut short? {error}') from None


def read_shards(
    path: str | os.PathLike, read: Callable[[str], Any], limit: int = 16 * 2**20
) -> dict[str, Any]:
    """The tensors of all shards that an index names, as transformers writes it.

    Args:
        path: The index, ``*.safetensors.index.json`` or ``*.bin.index.json``; the shards lie
            beside it.
        read: Reads a shard.
        limit: Bytes that an index may have.

    Raises:
        FileNotFoundError: A shard is not there.
        CheckpointError: The index is none, or it and the shards do not agree.
    """
    path = Path(path)
    merged = {}
    where = _weight_map(path, limit)
    for name in sorted(set(where.values())):
        # A name that is more than a name could point out of the folder.
        if Path(name).name != name:
            raise CheckpointError(f'{path}: a shard must lie beside its index, not at {name!r}')
        shard = read(str(path.parent / name))
        absent = [k for k, shard_name in where.items() if shard_name == name and k not in shard]
        if absent:
            raise CheckpointError(f'{path}: {name} lacks {absent[0]!r}, which the index names')
        merged.update(shard)
    return merged


def _weight_map(path: Path, limit: int) -> dict[str, str]:
    if path.stat().st_size > limit:
        raise CheckpointError(f'{path} is too large for an index of shards')
    try:
        where = json.loads(path.read_bytes())['weight_map']
        if not all(isinstance(name, str) for name in where.values()):
            raise TypeError('names of shards must be text')
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is no checkpoint, and no index of shards either: {error!r}'
        ) from None
    return where

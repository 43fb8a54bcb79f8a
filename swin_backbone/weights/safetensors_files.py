"""Safetensors files, and the index files of checkpoints that transformers splits into shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

# The largest header that the safetensors format allows, in bytes.
_LARGEST_HEADER = 100_000_000


def kind_of(path: str | os.PathLike) -> str | None:
    """``'safetensors'``, ``'index'`` or None for other files, detected from the first bytes."""
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= _LARGEST_HEADER:
        return 'safetensors'
    if start.lstrip().startswith(b'{'):
        return 'index'
    return None


def library() -> ModuleType:
    """The safetensors package, which is optional.

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
    """The tensors of a safetensors file, on the CPU or on the device ``map_location``."""
    device = map_location if isinstance(map_location, str | int) else 'cpu'
    return library().torch.load_file(path, device=device)


def read_index(path: Path, read: Callable[[Path], Any], limit: int = 16 * 2**20) -> dict[str, Any]:
    """The tensors of all shards that an index file names, as transformers writes it.

    Args:
        path: The index, ``*.safetensors.index.json`` or ``*.bin.index.json``. The shards are in
            the same folder.
        read: Reads a shard.
        limit: Largest allowed size of the index in bytes.

    Raises:
        FileNotFoundError: A shard is missing.
        CheckpointError: The index is invalid, or does not match the shards.
    """
    merged = {}
    weight_map = _weight_map(path, limit)
    for name in sorted(set(weight_map.values())):
        # A name with folders could point outside of the index's folder.
        if Path(name).name != name:
            raise CheckpointError(f'{path}: a shard must lie beside its index, not at {name!r}')
        shard = read(path.parent / name)
        absent = [k for k, file in weight_map.items() if file == name and k not in shard]
        if absent:
            raise CheckpointError(f'{path}: {name} lacks {absent[0]!r}, which the index names')
        merged.update(shard)
    return merged


def _weight_map(path: Path, limit: int) -> dict[str, str]:
    if path.stat().st_size > limit:
        raise CheckpointError(f'{path} is too large for an index of shards')
    try:
        weight_map = json.loads(path.read_bytes())['weight_map']
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise TypeError('names of shards must be text')
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path} is no checkpoint, and no index of shards either: {error!r}'
        ) from None
    return weight_map

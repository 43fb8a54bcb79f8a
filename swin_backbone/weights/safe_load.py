"""Reads checkpoints from a path, a catalog name or a URL without running any code in them.

``torch.load(weights_only=True)``, the default since torch 2.6, builds tensors and plain containers
and refuses everything else. ``safe_globals.py`` allows the few other objects of mmengine's own
checkpoints. Objects of other classes are never built: ``torch_files.py`` reads placeholders.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from . import distributed_checkpoints, safetensors_files, torch_files
from .catalog import catalog, nearest
from .download import fetch, is_url, user_path
from .file_checks import check_file
from .tensors import arrays_to_tensors, check_floats, warn_of_non_finite


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Reads a checkpoint, with tensors on the CPU. No code in it is run.

    Args:
        path: A file, or a folder with one file per process, as FSDP's shards are saved; or a name
            of the catalog or an ``http(s)://`` URL, which are downloaded. If a file has the name of
            a catalog entry, the file is read.

    Raises:
        FileNotFoundError: There is no such file or name.
        CheckpointError: The file cannot be downloaded; it is empty, truncated, not a checkpoint, or
            refers to code; or its weights are not floating-point tensors.
    """
    content = CheckpointLoader.load_checkpoint(os.fspath(path), map_location='cpu')
    check_floats(content, os.fspath(path))
    return content


def local_file(name: str | os.PathLike) -> Path:
    """The path of a checkpoint that is given as a path, a catalog name or a URL.

    Missing files of the catalog and of URLs are downloaded. An existing file takes precedence over
    a catalog name.

    Raises:
        FileNotFoundError: There is no such file or name.
        CheckpointError: The file cannot be downloaded.
    """
    name = os.fspath(name)
    path = user_path(name)
    if is_url(name) or (not path.exists() and name in catalog()):
        return fetch(name)
    if not path.exists():
        hint = nearest(name) if path.name == name else ''
        raise FileNotFoundError(
            f'no checkpoint at {path} (load_from, init_cfg or --checkpoint), and none of that name '
            f'is published{hint}'
        )
    return path


def load_from_file(filename: str, map_location: Any = None) -> Any:
    """Replaces mmengine's loader of paths, catalog names and URLs; see ``patches.py``."""
    path = local_file(filename)
    content = _read(path, map_location)
    warn_of_non_finite(content, str(path))
    return content


def _read(path: Path, map_location: Any = None) -> Any:
    with _explained(path):
        if distributed_checkpoints.is_rank_folder(path):
            return distributed_checkpoints.join(path)
        if path.is_dir():  # DeepSpeed's folders hold the plain model's weights as well
            path = distributed_checkpoints.file_in(path) or path
        check_file(path)
        kind = safetensors_files.kind_of(path)
        if kind == 'safetensors':
            return safetensors_files.read_safetensors(path, map_location)
        if kind == 'index':
            read = functools.partial(_read, map_location=map_location)
            return safetensors_files.read_index(path, read)
        content = torch_files.load(path, map_location)
        arrays_to_tensors(content, path.stat().st_size)
        return content


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns all errors of reading a file into a CheckpointError that names it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{path} is refused or is no checkpoint: {error}') from None
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:  # any type: a pickle chooses the arguments of constructors
        raise CheckpointError(f'{path} cannot be read; is it cut short? {error}') from error

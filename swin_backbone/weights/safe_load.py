"""Reading checkpoints without running what is in them; from a path, a catalog name or a URL.

``torch.load(weights_only=True)``, the default since torch 2.6, builds tensors and plain containers
and refuses everything else. mmengine's own checkpoints hold a little more, which
``safe_globals.py`` allows. Objects of other classes are never built: ``torch_files.py`` reads
stand-ins in their place.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from . import rank_files, shards, torch_files
from .arrays import as_tensors
from .catalog import catalog, nearest
from .download import fetch, is_url, user_path
from .file_checks import check_file, check_floats, foreign_names, warn_of_non_finite


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a checkpoint, tensors on the CPU; no code in it is run.

    Args:
        path: A file, or a folder of one file a process as FSDP's shards are saved in; or a name of
            the catalog, or an ``http(s)://`` URL, which are downloaded. A name that is also a
            file's means the file.

    Raises:
        FileNotFoundError: No such file or name.
        CheckpointError: The file cannot be downloaded; it is empty, cut short, no checkpoint, wants
            to run code, or its weights are no floating point tensors.
    """
    content = CheckpointLoader.load_checkpoint(os.fspath(path), map_location='cpu')
    check_floats(content, os.fspath(path))
    return content


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        asked = foreign_names(path)
        raise CheckpointError(
            f'{path} is refused or is no checkpoint: {_reason(error)}'
            + (f' (it asks for {", ".join(asked[:8])})' if asked else '')
        ) from None
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:  # of any kind: a pickle chooses what constructors are called with
        raise CheckpointError(f'{path} cannot be read; is it cut short? {error}') from error


def locate(name: str | os.PathLike) -> Path:
    """The file that a checkpoint's name means: a path, a name of the catalog or a URL.

    Downloads what is not there. An existing file is preferred to a catalog name.

    Raises:
        FileNotFoundError: No such file or name.
        CheckpointError: It cannot be downloaded.
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
    """What mmengine loads by a path, a catalog name or a URL; :mod:`swin_backbone.patches`."""
    path = locate(filename)
    content = _read(path, map_location)
    warn_of_non_finite(content, str(path))
    return content


def _read(path: str | os.PathLike, map_location: Any = None) -> Any:
    path = Path(path)
    with _explained(path):
        if rank_files.is_rank_folder(path):
            return rank_files.join(path)
        if path.is_dir():  # DeepSpeed's, with the plain model's weights; or none
            path = rank_files.file_in(path) or path
        check_file(path)
        kind = shards.kind_of(path)
        if kind == 'safetensors':
            return shards.read_safetensors(path, map_location)
        if kind == 'index':
            return shards.read_shards(path, functools.partial(_read, map_location=map_location))
        content = torch_files.load(path, map_location)
        as_tensors(content, path.stat().st_size)
        return content


def _reason(error: Exception) -> str:
    """torch's refusal less its advice, which begins with how to load unsafely."""
    found = re.search(r'(Unsupported|Trying|Can only|Can not|refused)[^\n]*', str(error))
    return found[0] if found else str(error).splitlines()[-1]

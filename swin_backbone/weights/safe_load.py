"""Reading checkpoints without running what is in them.

``torch.load(weights_only=True)``, the default since torch 2.6, builds tensors and plain containers
and refuses everything else. mmengine's own checkpoints hold a little more: message histories,
which pickle NumPy arrays and references to their statistics methods. This module allows exactly
those.
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
from urllib.error import URLError

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError
from . import shards


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a checkpoint file or URL, tensors on the CPU; no code in it is run.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file is empty, cut short, no checkpoint, or wants to run code.
    """
    return CheckpointLoader.load_checkpoint(os.fspath(path), map_location='cpu')


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` open what mmengine writes, in this process.

    Also gives mmengine loaders of files and of ``http(s)://`` that say what is wrong with a file;
    its own loader of URLs would ask torch for an unsafe load. Safe to call twice.
    """
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All']}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *dtypes,
            # NumPy 2 moved these; files carry the name of the NumPy that wrote them.
            *_under_both_names('multiarray', '_reconstruct'),
            *_under_both_names('multiarray', 'scalar'),
            (_history_statistic, 'builtins.getattr'),
        ]
    )
    CheckpointLoader.register_scheme('', _load_from_file, force=True)
    CheckpointLoader.register_scheme(['http://', 'https://'], _load_from_url, force=True)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{path} is refused or is no checkpoint: {_reason(error)}') from None
    except URLError as error:
        raise CheckpointError(f'{path} cannot be downloaded: {error}') from error
    except FileNotFoundError:
        raise
    except (EOFError, OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f'{path} cannot be read; is it cut short? {error}') from error


def _load_from_file(filename: str, map_location: Any = None) -> Any:
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path} (load_from, init_cfg or --checkpoint)')
    kind = shards.kind_of(path)
    if kind == 'safetensors':
        return shards.read_safetensors(path, map_location)
    if kind == 'index':
        read = functools.partial(_load_from_file, map_location=map_location)
        return shards.read_shards(path, read)
    with _explained(str(path)):
        return torch.load(path, map_location=map_location, weights_only=True)


def _reason(error: Exception) -> str:
    """torch's refusal less its advice, which begins with how to load unsafely."""
    found = re.search(r'(Unsupported|Trying|Can only|Can not|refused)[^\n]*', str(error))
    return found[0] if found else str(error).splitlines()[-1]


def _under_both_names(module: str, name: str) -> list[tuple[Any, str]]:
    core = getattr(np, '_core', None) or np.core
    function = getattr(getattr(core, module), name)
    return [(function, f'numpy.{place}.{module}.{name}') for place in ('core', '_core')]


def _history_statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in pickles: a HistoryBuffer refers to its methods with it.

    The real one would be a way to any attribute of any allowed object.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'WeightsUnpickler error: refused getattr({owner!r}, {name!r})')


def _load_from_url(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> Any:
    """mmengine's loader of ``http(s)://`` files, with weights only.

    Rank 0 downloads, the others wait. A name that ends in ``-<hash>.pth``, as OpenMMLab's do, is
    checked against the file.
    """

    def load() -> Any:
        with _explained(filename):
            return torch.hub.load_state_dict_from_url(
                filename,
                model_dir=model_dir,
                map_location=map_location,
                progress=progress,
                check_hash=True,
                weights_only=True,
            )

    if get_rank() != 0:
        barrier()
        return load()
    try:
        return load()
    finally:  # the others wait also where the download failed
        barrier()

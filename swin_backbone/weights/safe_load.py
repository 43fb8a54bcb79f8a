"""Reading checkpoints without running what is in them.

``torch.load(weights_only=True)``, the default since torch 2.6, builds tensors and plain containers
and refuses everything else. mmengine's own checkpoints hold a little more: message histories,
which pickle NumPy arrays and references to their statistics methods. This module allows exactly
those.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ..errors import CheckpointError


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a checkpoint file or URL, tensors on the CPU; no code in it is run.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file is empty, cut short, no checkpoint, or wants to run code.
    """
    path = os.fspath(path)
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    except FileNotFoundError:
        raise FileNotFoundError(f'no checkpoint at {path} (init_cfg, load_from)') from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{path} is refused or is no checkpoint: {_reason(error)}') from None
    except (EOFError, OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f'{path} cannot be read; is it cut short? {error}') from error


def _reason(error: Exception) -> str:
    """torch's refusal less its advice, which begins with how to load unsafely."""
    found = re.search(r'(Unsupported|Trying|Can only|Can not|refused)[^\n]*', str(error))
    return found[0] if found else str(error).splitlines()[-1]


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` open what mmengine writes, in this process.

    Also makes mmengine's loader of ``http(s)://`` files safe: it asks torch for an unsafe load.
    Safe to call twice.
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
    CheckpointLoader.register_scheme(['http://', 'https://'], _load_from_url, force=True)


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
        return torch.hub.load_state_dict_from_url(
            filename,
            model_dir=model_dir,
            map_location=map_location,
            progress=progress,
            check_hash=True,
            file_name=Path(urlparse(filename).path).name,
            weights_only=True,
        )

    if get_rank() == 0:
        checkpoint = load()
        barrier()
        return checkpoint
    barrier()
    return load()

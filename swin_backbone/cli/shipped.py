"""The package's own configs by name, and models built from configs as mmengine's Runner does."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .. import configs_dir
from ..errors import ArgumentError
from ..registration import register


def shipped() -> dict[str, Path]:
    """The configs that come with the package, by their names without ``.py``."""
    paths = sorted(configs_dir().glob('*.py'))
    return {path.stem: path for path in paths if path.stem != '__init__'}


def find(name: str) -> Path:
    """The file of a shipped config.

    Raises:
        ArgumentError: There is none of that name; the message names the nearest.
    """
    found = shipped().get(name.removesuffix('.py'))
    if found is None:
        near = difflib.get_close_matches(name, shipped(), cutoff=0.4)
        hint = f'the nearest are {", ".join(near)}' if near else 'see `swin-backbone configs list`'
        raise ArgumentError(f'no config is called {name!r}; {hint}')
    return found


def read(config: str | Path) -> Config:
    """A config with its bases merged, by its path or a shipped one's name.

    Raises:
        ArgumentError: There is none, or it cannot be read.
    """
    path = Path(config).expanduser()
    path = path if path.is_file() else find(str(config))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the frameworks' own, as their parts are imported
        register()
        try:
            return Config.fromfile(path)
        except Exception as error:  # a config is code, and mmengine's errors are of many kinds
            raise ArgumentError(f'{config} cannot be read: {_said(error)}') from error


def build_on_meta(config: Config, name: str) -> nn.Module:
    """A config's model with shapes alone: no memory, no weights.

    Raises:
        ArgumentError: It cannot be built; ``name`` says in the error which config it is.
    """
    if 'model' not in config:
        raise ArgumentError(f'{name} has no model')
    init_default_scope(config.get('default_scope', 'mmengine'))
    with warnings.catch_warnings(), torch.device('meta'):
        warnings.simplefilter('ignore')
        try:
            return MODELS.build(config.model)
        except Exception as error:  # whatever a model's constructor may raise
            raise ArgumentError(f'the model of {name} cannot be built: {_said(error)}') from error


def _said(error: Exception) -> str:
    return f'{type(error).__name__}: {error}; `swin-backbone doctor` looks for what is amiss'

"""Says at once, and all together, which data a config names that is not there.

Left to themselves the frameworks find out one by one and late: a missing annotation file when its
dataset is built, a missing folder of images when the first batch is loaded, after weights have been
downloaded; and they name the path, but not the option that sets it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import RUNNERS
from torch import nn

from .runner import AnyDeviceRunner


@RUNNERS.register_module()
class DataCheckingRunner(AnyDeviceRunner):
    """A Runner for any device that checks its data first, and then is mmengine's.

    A config asks for it with ``runner_type='swin_backbone.engine.check_data.DataCheckingRunner'``.
    """

    def train(self) -> nn.Module:
        """Checks the data of training and validation, and trains."""
        check_data(self.cfg, *(['train'] if self._val_loop is None else ['train', 'val']))
        return super().train()

    def val(self) -> dict:
        """Checks the data of validation, and validates."""
        check_data(self.cfg, 'val')
        return super().val()

    def test(self) -> dict:
        """Checks the data of the test, and tests."""
        check_data(self.cfg, 'test')
        return super().test()


def check_data(cfg: Mapping[str, Any], *phases: str) -> None:
    """Checks the folders and annotation files of a config's data loaders and evaluators.

    Args:
        cfg: The config. What does not lie in the file system (URLs, ``backend_args``) is passed
            over, and so are data loaders that are built already.
        phases: Which of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        FileNotFoundError: Lists each path that is not there and the option that sets it.
        ImportError: A pipeline has InstaBoost, which comes with an extra that is not installed.
    """
    _check_instaboost([cfg.get(f'{phase}_dataloader') for phase in phases])
    missing = [
        f'  {name} = {path!r}'
        for phase in phases
        for part in (f'{phase}_dataloader', f'{phase}_evaluator')
        for name, path in _missing(cfg.get(part), part)
    ]
    if missing:
        raise FileNotFoundError(
            f'the data is not where the config says, as seen from {os.getcwd()}:\n'
            + '\n'.join(missing)
            + '\nset them in the config, or by --cfg-options NAME=PATH'
        )


def _check_instaboost(node: Any) -> None:
    if isinstance(node, list | tuple):
        for child in node:
            _check_instaboost(child)
    elif isinstance(node, Mapping):
        if node.get('type') == 'InstaBoost' and not importlib.util.find_spec('instaboostfast'):
            raise ImportError(
                "this config's training data is augmented by InstaBoost, which is not installed: "
                "pip install 'swin_backbone[instaboost]' (if that fails to build: pip install "
                'cython, then again with --no-build-isolation); our HTC++ configs train without it '
                'where SWIN_INSTABOOST=off is in the environment'
            )
        _check_instaboost(list(node.values()))


def _missing(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """The options below a part of a config whose paths are not there, and those paths."""
    if isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _missing(child, f'{name}.{i}')
    if not isinstance(node, Mapping) or node.get('backend_args'):
        return
    root = node.get('data_root') or ''
    if _absent(root):
        yield f'{name}.data_root', root
        return
    paths = {'ann_file': node.get('ann_file')}
    prefix = node.get('data_prefix') or {}
    if isinstance(prefix, str):  # mmpretrain's
        paths['data_prefix'] = prefix
    else:
        paths |= {f'data_prefix.{key}': path for key, path in prefix.items()}
    for option, path in paths.items():
        if path and _absent(os.path.join(root, path)):
            yield f'{name}.{option}', os.path.join(root, path)
    for key in ('dataset', 'datasets', 'metrics'):
        yield from _missing(node.get(key), f'{name}.{key}')


def _absent(path: str) -> bool:
    return bool(path) and '://' not in path and not os.path.exists(path)

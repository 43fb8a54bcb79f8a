"""Reports all missing data of a config at once, before anything is built.

The frameworks report them one by one and late: a missing annotation file when its data set is
built, a missing image folder when the first batch is loaded, after weights were downloaded. They
name the path, but not the option or environment variable that sets it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.registry import RUNNERS
from torch import nn

from .check_classes import explained_emptiness
from .runner import AnyDeviceRunner

# The phases whose data each method of a Runner reads.
PHASES = {'train': ('train', 'val'), 'val': ('val',), 'test': ('test',)}
CLASS_CHECK = 'swin_backbone.engine.check_classes.ClassCheckHook'
_ARunner: Any = object  # the mix-in uses a Runner's attributes


class ChecksData(_ARunner):
    """Mix-in for Runners: checks paths and classes of the data before a run."""

    cfg: Any
    _val_loop: Any

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Any:
        """As mmengine's, after checking that the data of at least one method exist.

        Which method will be called is not known yet. The method checks the data that it needs.
        """
        check_any_data(cfg)
        return super().from_cfg(cfg)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As mmengine's, with a check of classes, which ``classes=None`` turns off."""
        hooks = {'classes': dict(type=CLASS_CHECK), **(hooks or {})}
        if hooks['classes'] is None:
            del hooks['classes']
        super().register_default_hooks(hooks)

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's; explains an empty data set."""
        with explained_emptiness(self.cfg, 'train'):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> Any:
        """As mmengine's; explains an empty data set."""
        with explained_emptiness(self.cfg, 'val'):
            return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> Any:
        """As mmengine's; explains an empty data set."""
        with explained_emptiness(self.cfg, 'test'):
            return super().build_test_loop(loop)

    def train(self) -> nn.Module:
        """Checks the data of training and validation, then trains."""
        check_data(self.cfg, *(['train'] if self._val_loop is None else ['train', 'val']))
        return super().train()

    def val(self) -> dict:
        """Checks the data of validation, then validates."""
        check_data(self.cfg, 'val')
        return super().val()

    def test(self) -> dict:
        """Checks the data of the test, then tests."""
        check_data(self.cfg, 'test')
        return super().test()


@RUNNERS.register_module()
class DataCheckingRunner(ChecksData, AnyDeviceRunner):
    """mmengine's Runner on any device, with checks of the data before a run.

    A config selects it with ``runner_type='swin_backbone.engine.check_data.DataCheckingRunner'``.
    """


def check_any_data(cfg: Mapping[str, Any]) -> None:
    """Checks that the data of training, of validation or of the test exist.

    Raises:
        FileNotFoundError: Each of them is incomplete; the message is that of :func:`check_data`.
    """
    used = [name for name in PHASES if cfg.get(f'{name}_dataloader') is not None]
    if used and all(_missing_in(cfg, PHASES[name]) for name in used):
        raise _not_there(cfg, _missing_in(cfg, used))


def check_data(cfg: Mapping[str, Any], *phases: str) -> None:
    """Checks the folders and annotation files of a config's data loaders and evaluators.

    Args:
        cfg: The config. Paths outside the file system (URLs, ``backend_args``) and data loaders
            that are already built are ignored. ``data_roots`` maps environment variables to the
            folders that they set.
        phases: Any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        FileNotFoundError: Lists each missing path, the option that sets it, and the environment
            variable that it comes from.
        ImportError: A pipeline uses InstaBoost, and its extra is not installed.
    """
    _check_instaboost([cfg.get(f'{phase}_dataloader') for phase in phases])
    if missing := _missing_in(cfg, phases):
        raise _not_there(cfg, missing)


def _missing_in(cfg: Mapping[str, Any], phases: Iterable[str]) -> list[tuple[str, str]]:
    return [
        found
        for phase in phases
        for part in (f'{phase}_dataloader', f'{phase}_evaluator')
        for found in _missing(cfg.get(part), part)
    ]


def _not_there(cfg: Mapping[str, Any], missing: Iterable[tuple[str, str]]) -> FileNotFoundError:
    lines = [f'the data is not where the config says, as seen from {os.getcwd()}:']
    lines += [f'  {option} = {path!r}' for option, path in missing]
    for variable, root in (cfg.get('data_roots') or {}).items():
        if any(path == root or path.startswith(f'{root.rstrip("/")}/') for _, path in missing):
            state = 'set' if variable in os.environ else 'not set'
            lines.append(
                f'{root!r} comes from the environment variable {variable}, which is {state}: '
                f'export {variable}=/path/to/the/data'
            )
    lines.append('the options are set in the config, or by --cfg-options NAME=PATH')
    return FileNotFoundError('\n'.join(lines))


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
                'with SWIN_INSTABOOST=off in the environment'
            )
        _check_instaboost(list(node.values()))


def _missing(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """The options in a part of a config whose paths are missing, with the paths."""
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

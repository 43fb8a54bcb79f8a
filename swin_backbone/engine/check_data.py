"""Says at once, and all together, which data a config names that is not there.

Left to themselves the frameworks find out one by one and late: a missing annotation file when its
dataset is built, a missing folder of images when the first batch is loaded, after weights have been
downloaded; and they name the path, but not the option or the variable that sets it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.registry import RUNNERS
from torch import nn

from .compare_classes import explained_emptiness
from .runner import AnyDeviceRunner

# What each of a Runner's methods reads, in the config's own words.
PHASES = {'train': ('train', 'val'), 'val': ('val',), 'test': ('test',)}
# Compares classes once the data sets are built.
CLASS_CHECK = 'swin_backbone.engine.check_classes.ClassCheckHook'
_ARunner: Any = object  # which has a Runner's attributes where it is mixed in


class ChecksData(_ARunner):
    """The part that is common to Runners of both kinds; a mix-in."""

    cfg: Any
    _val_loop: Any

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Any:
        """Checks, before anything is built, that there are data for any method; then as mmengine.

        Which method will be called is not known yet: the data that it needs are checked by it.
        """
        check_any_data(cfg)
        return super().from_cfg(cfg)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """As mmengine's, and a check of classes, which ``classes=None`` leaves out."""
        hooks = {'classes': dict(type=CLASS_CHECK), **(hooks or {})}
        if hooks['classes'] is None:
            del hooks['classes']
        super().register_default_hooks(hooks)

    def build_train_loop(self, loop: Any) -> Any:
        """As mmengine's, and says why there are no images to train on."""
        with explained_emptiness(self.cfg, 'train'):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop: Any) -> Any:
        """As mmengine's, and says why there are no images to validate on."""
        with explained_emptiness(self.cfg, 'val'):
            return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> Any:
        """As mmengine's, and says why there are no images to test on."""
        with explained_emptiness(self.cfg, 'test'):
            return super().build_test_loop(loop)

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


@RUNNERS.register_module()
class DataCheckingRunner(ChecksData, AnyDeviceRunner):
    """A Runner for any device that checks its data first, and then is mmengine's.

    A config asks for it with ``runner_type='swin_backbone.engine.check_data.DataCheckingRunner'``.
    """


def check_any_data(cfg: Mapping[str, Any]) -> None:
    """Checks that the data of training, of validation or of the test are there.

    Raises:
        FileNotFoundError: A part of each of them is not there, as :func:`check_data` says.
    """
    used = [name for name in PHASES if cfg.get(f'{name}_dataloader') is not None]
    if used and all(_missing_in(cfg, PHASES[name]) for name in used):
        raise _not_there(cfg, _missing_in(cfg, used))


def check_data(cfg: Mapping[str, Any], *phases: str) -> None:
    """Checks the folders and annotation files of a config's data loaders and evaluators.

    Args:
        cfg: The config. What does not lie in the file system (URLs, ``backend_args``) is passed
            over, and so are data loaders that are built already. Its ``data_roots`` are the
            folders that environment variables name, by the variables.
        phases: Which of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        FileNotFoundError: Lists each path that is not there, the option that sets it, and the
            environment variable that it comes from.
        ImportError: A pipeline has InstaBoost, which comes with an extra that is not installed.
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

"""Every change that this package makes to code of other packages.

=====================================  ====================================  ====================
What is changed, and when              Why                                   Needed until
=====================================  ====================================  ====================
``torch.serialization``: safe globals  mmengine's checkpoints hold message   mmengine registers
for ``HistoryBuffer`` and NumPy, on    histories, which ``torch.load``       them itself; 0.10.7
import of torch                        refuses since torch 2.6               does not
mmengine's ``CheckpointLoader`` for    Files are opened without running      mmengine loads with
paths and ``http(s)://``, and its      code, by a catalog name or folder,    ``weights_only=True``;
``load_from_http``, on import of       too; mmengine's loader of URLs asks   0.10.7 does not
``mmengine.runner``                    for an unsafe load
mmengine's ``MODELS._module_dict``,    The backbones are registered when     Registries have a hook
on import of ``mmengine.registry``     their name is first looked up, so     for lookups; 0.10.7's
                                       that importing this package is cheap  have none
``Runner.from_cfg``, on import of      mmseg's test script ignores           mmengine honours it,
:mod:`swin_backbone.engine.runner`     ``runner_type``; ``Runner`` itself    and its launcher runs
                                       needs CUDA for several processes      on CPUs; not in 0.10.7
``print_log`` in two modules of        mmengine logs warnings of its own     mmengine stops using
mmengine, on import of                 deprecated classes in each run        these classes; 0.10.7
:mod:`swin_backbone.engine.quiet`                                            does
DeepSpeed's list of compatible ops,    It compiles an all-reduce for CPUs    DeepSpeed leaves this
when a CPU run with DeepSpeed starts   although the run uses gloo            to the backend
mmdet's ``select_single_mlvl`` and     They detach scores, whose gradients   –
mmcv's ``soft_nms``, while a class     the map is made from
activation map of a box is computed
=====================================  ====================================  ====================

Not listed, because the other package offers it: entries of registries (``registration.py``),
finders on ``sys.meta_path`` (``imports.py``, ``mmcv_ext/startup.py``) and warning filters
(``engine/quiet.py``). Each patch is applied once, after its target has been imported; this module
imports the standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .imports import when_imported


def apply() -> None:
    """Applies the patches of checkpoint loading, as soon as torch and mmengine are imported."""
    when_imported('torch', _allow_mmengine_objects)
    when_imported('mmengine.runner', _replace_checkpoint_loaders)


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` open what mmengine writes, in this process.

    Also replaces mmengine's loaders of files, catalog names and ``http(s)://``. Importing the
    package does both as soon as torch and mmengine are imported; this imports them now.
    """
    _allow_mmengine_objects()
    _replace_checkpoint_loaders()


def _allow_mmengine_objects() -> None:
    _ours('weights.safe_globals').allow_mmengine_objects()


def _replace_checkpoint_loaders() -> None:
    checkpoint: Any = importlib.import_module('mmengine.runner.checkpoint')
    checkpoint.CheckpointLoader.register_scheme('', load_from_local, force=True)
    schemes = ['http://', 'https://']
    checkpoint.CheckpointLoader.register_scheme(schemes, load_from_http, force=True)
    checkpoint.load_from_http = load_from_http  # the loaders of torchvision:// and others call it


# mmengine logs a loader's name without its first ten characters, `load_from_`.
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Replaces mmengine's loader of local files; see :mod:`swin_backbone.weights.safe_load`."""
    return _ours('weights.safe_load').load_from_file(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """Replaces mmengine's loader of URLs; folder and progress bar are this package's."""
    return load_from_local(filename, map_location)


def _ours(module: str) -> Any:
    """A module of this package. By its name, so that this file depends on none of the rooms."""
    return importlib.import_module(f'.{module}', __package__)


def register_on_demand(names: Collection[str], register: Callable[[], object]) -> None:
    """Has mmengine's root registry call ``register`` when one of ``names`` is first used."""
    models: Any = sys.modules['mmengine.registry.root'].MODELS
    models._module_dict = _OnDemand(models._module_dict, names, register)


class _OnDemand(dict):
    """A registry's dict of classes, which registers some of them when they are looked up."""

    def __init__(
        self, known: dict[str, Any], names: Collection[str], register: Callable[[], object]
    ) -> None:
        super().__init__(known)
        self._names, self._registers, self._missing = frozenset(names), register, True
        self._registering: set[int] = set()  # threads whose registration looks names up again

    def _register(self, name: object) -> None:
        thread = threading.get_ident()
        if name not in self._names or not self._missing or thread in self._registering:
            return
        self._registering.add(thread)
        try:
            self._registers()
            self._missing = False
        finally:
            self._registering.discard(thread)

    def __contains__(self, name: object) -> bool:
        self._register(name)
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self._register(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, module: Any) -> None:
        self._register(name)  # first, so that the later registration wins
        super().__setitem__(name, module)

    def get(self, name: str, default: Any = None) -> Any:
        self._register(name)
        return super().get(name, default)


def honour_runner_type(default: type) -> None:
    """Makes ``Runner.from_cfg`` build the config's ``runner_type``.

    Args:
        default: The Runner for configs without ``runner_type``.
    """
    runner: Any = importlib.import_module('mmengine.runner').Runner
    runners: Any = importlib.import_module('mmengine.registry').RUNNERS
    from_cfg = runner.from_cfg.__func__

    def build(cls: Any, cfg: Mapping[str, Any]) -> Any:
        wanted = cfg.get('runner_type', default) if cls is runner else cls
        chosen: Any = wanted if inspect.isclass(wanted) else runners.get(wanted)
        if chosen is None:
            raise KeyError(
                f'no Runner is called runner_type={wanted!r}; custom_imports has to '
                'name the module that registers it'
            )
        return from_cfg(chosen, cfg) if chosen in (cls, runner) else chosen.from_cfg(cfg)

    runner.from_cfg = classmethod(build)


def leave_out_logged(module: str, begins: tuple[str, ...]) -> None:
    """Makes ``print_log`` in a module of mmengine drop messages with one of these beginnings."""

    def replace() -> None:
        target: Any = sys.modules[module]
        if not isinstance(target.print_log, _LeavesOut):
            target.print_log = _LeavesOut(target.print_log, begins)

    when_imported(module, replace)


class _LeavesOut:
    """mmengine's ``print_log`` without some messages."""

    def __init__(self, print_log: Callable, begins: tuple[str, ...]) -> None:
        self.print_log, self.begins = print_log, begins

    def __call__(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if not str(msg).startswith(self.begins):
            self.print_log(msg, *args, **kwargs)


def use_gloo_in_deepspeed() -> None:
    """Keeps DeepSpeed from compiling its own all-reduce for CPUs, which takes a minute."""
    importlib.import_module('deepspeed').ops.__compatible_ops__['deepspeed_shm_comm'] = False


@contextlib.contextmanager
def scores_keep_gradients(kinds: Iterable[type]) -> Iterator[None]:
    """Within the context, mmdet's and mmcv's selection of boxes keeps the gradients of scores.

    Args:
        kinds: The classes of the detector's head and its bases.
    """
    places: list[tuple[Any, str, Callable]] = [
        (sys.modules.get('mmcv.ops.nms'), 'soft_nms', _soft_nms_with_gradients),
        *((sys.modules[k.__module__], 'select_single_mlvl', _select_attached) for k in kinds),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, instead in dict.fromkeys(places):
            if (before := getattr(module, name, None)) is not None:
                stack.callback(setattr, module, name, before)
                setattr(module, name, functools.partial(instead, before))
        yield


def _select_attached(select: Callable, levels: Sequence, image: int, detach: bool = True) -> Any:
    return select(levels, image, detach=False)


def _soft_nms_with_gradients(
    soft_nms: Callable, boxes: Any, scores: Any, *rest: Any, **more: Any
) -> Any:
    """Scores times the factor by which soft-NMS reduces them, taken as a constant."""
    torch = sys.modules['torch']
    found, kept = soft_nms(boxes.detach(), scores.detach(), *rest, **more)
    decay = found[:, 4] / scores.detach()[kept].clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.cat([found[:, :4], (scores[kept] * decay)[:, None]], 1), kept

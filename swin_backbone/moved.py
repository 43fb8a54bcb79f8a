"""Old import paths of moved modules, which work for one more release.

Importing an old path issues a ``DeprecationWarning`` and returns the module of the new path: the
same object, so that ``isinstance``, pickles and patched attributes agree. Nothing is imported until
then. To move a module, add a line to ``MOVED``; in the release after that, remove the line.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

# Old path -> new path, without the package's name. Submodules follow their package; a line of
# their own takes precedence.
MOVED = {
    'backbone': 'swin',
    'engine.annotations': 'engine.check_annotations',
    'engine.class_names': 'engine.check_annotations',
    'engine.compare_classes': 'engine.check_classes',
    'engine.complexity': 'tools.complexity',
    'engine.data_contents': 'tools.data_contents',
    'engine.data_report': 'tools.data_report',
    'engine.faults': 'tools.faults',
    'engine.installation': 'tools.doctor',
    'engine.models': 'tools.predictor',
    'engine.operators': 'tools.operators',
    'engine.shipped': 'tools.configs',
    'export': 'tools.export',
    'layers.computed_once': 'layers.tensor_cache',
    'layers.in_one_piece': 'layers.fused',
    'ops.rows': 'ops.tokenwise',
    'page': 'tools.page',
    'visual': 'tools.pictures',
    'visual.images': 'tools.images',
    'weights.arrays': 'weights.tensors',
    'weights.buildable': 'weights.rebuild',
    'weights.classifier': 'weights.load',
    'weights.containers': 'weights.state_dicts',
    'weights.coordinates': 'weights.coords_table',
    'weights.nested': 'weights.traversal',
    'weights.plain': 'weights.tensors',
    'weights.rank_files': 'weights.distributed_checkpoints',
    'weights.shards': 'weights.safetensors_files',
    'weights.stand_ins': 'weights.placeholders',
}
# Old names in these modules, and the new ones.
RENAMED = {
    'backbone': {'Backbone': 'SwinTransformer'},
    'layers.computed_once': {'ComputedOnce': 'TensorCache'},
}

_PREFIX = f'{__package__}.'


def new_path(name: str) -> str | None:
    """The new path of a module that has moved, or None for any other name."""
    if not name.startswith(_PREFIX):
        return None
    name = name.removeprefix(_PREFIX)
    old = max((old for old in MOVED if f'{name}.'.startswith(f'{old}.')), key=len, default=None)
    return None if old is None else _PREFIX + MOVED[old] + name.removeprefix(old)


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules by their old paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = new_path(fullname)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Python creates an empty module, which ``exec_module`` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = new_path(old)
        assert new is not None
        user = _importing_frame()
        warnings.warn_explicit(
            f'{old} has moved to {new}; the old path will be removed in the next release',
            DeprecationWarning,
            filename=user.f_code.co_filename,
            lineno=user.f_lineno,
            module=user.f_globals.get('__name__'),
            registry=user.f_globals.setdefault('__warningregistry__', {}),
        )
        sys.modules[old] = found = importlib.import_module(new)
        for old_name, new_name in RENAMED.get(old.removeprefix(_PREFIX), {}).items():
            setattr(found, old_name, getattr(found, new_name))


def _importing_frame() -> FrameType:
    """The frame of the import statement, so that Python shows the warning to who wrote it.

    Frames of importlib and of the package's lazy attributes are skipped.
    """
    frame = sys._getframe(1)
    skipped = 'importlib', __name__, f'{_PREFIX}imports'
    while frame.f_back and f'{frame.f_globals.get("__name__")}.'.startswith(
        tuple(f'{name}.' for name in skipped)
    ):
        frame = frame.f_back
    return frame


@functools.cache
def keep_old_paths() -> None:
    """Makes imports of old paths work; calls after the first do nothing."""
    # First, because Python's own finder would load a submodule of a moved package a second time.
    sys.meta_path.insert(0, _MovedModules())

"""Makes ``swin_backbone.mmcv_ext`` importable as ``mmcv._ext`` if mmcv has no compiled operators.

The wheel installs a copy of this file, ``_swin_backbone_startup.py``, and a ``.pth`` file that
imports it at Python's start, because ``mim train mmdet`` imports ``mmcv.ops`` before it reads a
config. The hook appends a finder to ``sys.meta_path``. A compiled ``mmcv/_ext.*.so`` takes
precedence, nothing is written into mmcv's folder, and uninstalling swin_backbone removes the hook.
The file runs at every start of Python and therefore imports almost nothing.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

NAME = 'mmcv._ext'


class OperatorsWithoutBuild:
    """A finder of ``mmcv._ext`` with the lowest precedence."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> 'ModuleSpec | None':
        if name != NAME:
            return None
        from importlib.util import find_spec, spec_from_file_location
        from os.path import isfile, join

        package = find_spec('swin_backbone')  # does not import it
        for folder in (package and package.submodule_search_locations) or ():
            folder = join(folder, 'mmcv_ext')
            file = join(folder, '__init__.py')
            if isfile(file):
                # Not an alias of swin_backbone.mmcv_ext, whose import would register the backbones.
                return spec_from_file_location(NAME, file, submodule_search_locations=[folder])
        return None


def install() -> None:
    """Appends the finder if it is missing."""
    if not any(
        getattr(finder, '__name__', '') == OperatorsWithoutBuild.__name__
        for finder in sys.meta_path
    ):
        sys.meta_path.append(OperatorsWithoutBuild)


install()

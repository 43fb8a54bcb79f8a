"""Makes ``mmcv._ext`` mean ``swin_backbone.mmcv_ext`` where mmcv has no compiled operators.

The wheel has a copy of this file beside its packages, ``_swin_backbone_startup.py``, and a ``.pth``
file that imports it when Python starts: ``mim train mmdet`` imports ``mmcv.ops`` before it reads
any config. It appends one finder to ``sys.meta_path``. A compiled ``mmcv/_ext.*.so`` is found
before that finder is asked, nothing is written into mmcv's folder, and uninstalling swin_backbone
removes all of it. Standard library only, and little of it: this runs at every start of Python.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

NAME = 'mmcv._ext'


class OperatorsWithoutBuild:
    """A finder, the last to be asked, of ``mmcv._ext``."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> 'ModuleSpec | None':
        if name != NAME:
            return None
        from importlib.util import find_spec, spec_from_file_location

        package = find_spec('swin_backbone')  # finds the folder, imports nothing
        for folder in (package and package.submodule_search_locations) or ():
            folder = f'{folder}/mmcv_ext'
            # A package of its own, not an alias: importing swin_backbone would register backbones.
            return spec_from_file_location(
                NAME, f'{folder}/__init__.py', submodule_search_locations=[folder]
            )
        return None


def install() -> None:
    """Appends the finder, unless it is there. Safe to call twice."""
    if not any(
        getattr(finder, '__name__', '') == OperatorsWithoutBuild.__name__
        for finder in sys.meta_path
    ):
        sys.meta_path.append(OperatorsWithoutBuild)


install()

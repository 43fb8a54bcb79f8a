"""The frameworks that have registries, the names of the backbones in them, and failed imports."""

from __future__ import annotations

import warnings

from .errors import RegistrationWarning

# Frameworks that define a Swin Transformer; `{framework}.models` registers theirs.
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')

# The names under which a class is registered: the frameworks' own, and one that is only ours.
NAMES: dict[str, tuple[str, ...]] = {
    'SwinTransformer': ('SwinTransformer', 'SwinBackbone'),
    'SwinTransformerV2': ('SwinTransformerV2', 'SwinBackboneV2'),
}

# Frameworks whose import failed, and those for which a warning was given.
_failed: set[str] = set()
_warned: set[str] = set()


def warn_of(framework: str, error: Exception) -> None:
    """Warns, once per framework, that it cannot be imported and nothing is registered in it."""
    _failed.add(framework)
    if framework not in _warned:
        _warned.add(framework)
        warnings.warn(
            f'swin_backbone did not register in {framework}, which cannot be imported: '
            f'{type(error).__name__}: {error}',
            RegistrationWarning,
            stacklevel=4,
        )


def another_failed(framework: str, error: Exception) -> bool:
    """Whether another framework failed, so that this one's import may succeed the second time.

    mmdet and mmseg import mmpretrain where it is installed. If that raises anything but an
    ImportError, their import fails the first time and continues without mmpretrain the second time.
    """
    return bool(_failed - {framework})

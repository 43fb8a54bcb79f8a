"""Pictures of predictions, features and attention; training curves; reports."""

from ...errors import ArgumentError

try:
    import matplotlib as _matplotlib  # noqa: F401
    import PIL as _pil  # noqa: F401
    import skimage as _skimage  # noqa: F401
except ModuleNotFoundError as _error:
    raise ArgumentError(
        f"pictures need {_error.name}, which is not installed: pip install 'swin_backbone[visual]'"
    ) from _error

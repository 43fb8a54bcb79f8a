"""Reading images: any file that Pillow opens, as RGB."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ArgumentError

MAX_PIXELS = 50_000_000  # about what today's cameras take; 150 MB as RGB
# The images of scikit-image that its wheel contains and that look like photographs.
SAMPLES = {
    name: f'{name}.{"jpg" if name == "rocket" else "png"}'
    for name in ('astronaut', 'camera', 'chelsea', 'coffee', 'coins', 'rocket')
}


class ImageError(ArgumentError):
    """An image that cannot be read.

    Attributes:
        kind: ``'unknown'`` (not an image), ``'large'`` or ``'damaged'``.
    """

    def __init__(self, kind: Literal['unknown', 'large', 'damaged'], message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_image(image: str | Path) -> np.ndarray:
    """An image file as RGB; see :func:`decode`.

    Args:
        image: A path, or a name in :data:`SAMPLES`, which needs scikit-image. A file takes
            precedence over a sample of the same name.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ArgumentError: There is no such file, it is not an image or a damaged one, or it has more
            than :data:`MAX_PIXELS` pixels.
    """
    path = _located(image)
    return decode(path, str(path))


def _located(image: str | Path) -> Path:
    path = Path(image).expanduser()
    if path.is_file():
        return path
    if str(image) in SAMPLES:
        import skimage.data

        return Path(skimage.data.__file__).parent / SAMPLES[str(image)]
    what = 'is a folder, not an image' if path.is_dir() else 'is not there'
    raise ArgumentError(f'{image} {what}; scikit-image brings {", ".join(SAMPLES)}')


def decode(
    file: str | Path | IO[bytes],
    name: str,
    *,
    formats: list[str] | None = None,
    max_pixels: int | None = None,
    shrink_to: tuple[int, int] | None = None,
) -> np.ndarray:
    """An image as RGB, as people see it.

    Palettes, CMYK and grey become RGB; transparent pixels are blended with white; the rotation that
    EXIF data asks for is applied. Of an animation or a file of several pages, the first image is
    read. 16-bit greys become 8-bit ones. Floats from 0 to 1 keep their brightness; floats and
    32-bit integers of any other range are stretched from their lowest to their highest value,
    infinite ones and NaN counting as 0.

    Args:
        file: A path or an open file.
        name: What error messages call it.
        formats: The formats of Pillow that are accepted; None accepts all.
        max_pixels: The limit; by default, :data:`MAX_PIXELS`. It is compared with the size in the
            file's header, before pixels are decoded.
        shrink_to: Shrink larger images to at most so many pixels, and so many on the longer side.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: It is not an image or a damaged one, or it has too many pixels.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # has its own limit
            with Image.open(file, formats=formats) as image:
                width, height = image.size
                if width * height > limit:
                    raise _too_large(name, limit, f': {width} × {height} pixels')
                return np.asarray(_as_seen(image, shrink_to))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError('unknown', f'{name} is no image that Pillow can read') from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, limit) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, …
        raise ImageError('damaged', f'{name} cannot be read as an image: {error}') from error


def _too_large(name: str, limit: int, size: str = '') -> ImageError:
    return ImageError(
        'large', f'{name} has too many pixels{size}, and {limit:,} are allowed; scale it down'
    )


def _as_seen(image: Image.Image, shrink_to: tuple[int, int] | None) -> Image.Image:
    if shrink_to is None:
        return _rgb(ImageOps.exif_transpose(image))
    image.draft('RGB', _shrunk(image.size, *shrink_to))  # JPEG: decodes only the resolution needed
    image = _rgb(ImageOps.exif_transpose(image))
    size = _shrunk(image.size, *shrink_to)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _shrunk(size: tuple[int, int], pixels: int, side: int) -> tuple[int, int]:
    width, height = size
    ratio = min(1, math.sqrt(pixels / (width * height)), side / max(size))
    return max(1, int(width * ratio)), max(1, int(height * ratio))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == 'F' or image.mode.startswith('I'):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Greys of other types as uint8."""
    whole, wide = values.dtype.kind != 'f', values.dtype.itemsize > 2
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    most = 2**16 - 1 if whole else 1
    if low < 0 or high > most:
        values, most = values - low, max(high - low, 1e-9)
    elif whole and wide and high < 256:
        most = 255  # Pillow reads some 8-bit files as integers of 32 bits
    return (values * (255 / most)).round().astype(np.uint8)

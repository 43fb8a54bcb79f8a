"""Images of any mode as RGB, and those that scikit-image brings along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import ArgumentError

# Of scikit-image's own pictures, those that its wheel holds and that look like photographs.
SAMPLES = {
    name: f'{name}.{"jpg" if name == "rocket" else "png"}'
    for name in ('astronaut', 'camera', 'chelsea', 'coffee', 'coins', 'rocket')
}
MAX_PIXELS = 50_000_000  # what a camera of today takes; its RGB is 150 MB


def read_image(image: str | Path) -> np.ndarray:
    """An image as RGB, uint8 (H, W, 3).

    Any mode that Pillow reads: palettes, CMYK and grey become RGB, what is transparent lies on
    white, 16 bits become 8, floats go from 0 to 1, and the camera's rotation (EXIF) is undone. Of
    an animation it is the first picture.

    Args:
        image: A path, or a name of :data:`SAMPLES`; where both are there, the file.

    Raises:
        ArgumentError: There is none, it is no image or a broken one, has more than
            :data:`MAX_PIXELS` pixels, or values that are no brightness.
    """
    path = _located(image)
    with _explained(path), Image.open(path) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ArgumentError(
                f'{path} has {opened.width} × {opened.height} pixels, and at most '
                f'{MAX_PIXELS // 10**6} million are taken: scale it down'
            )
        opened.load()
        return np.asarray(_rgb(ImageOps.exif_transpose(opened), path))


def _located(image: str | Path) -> Path:
    path = Path(image).expanduser()
    if path.is_file():
        return path
    if str(image) in SAMPLES:
        return Path(skimage.data.__file__).parent / SAMPLES[str(image)]
    what = 'is a folder, not an image' if path.is_dir() else 'is not there'
    raise ArgumentError(f'{image} {what}; scikit-image brings {", ".join(SAMPLES)}')


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever Pillow raises, as one error; its own warning of large images is not needed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            yield
    except ArgumentError:
        raise
    except UnidentifiedImageError:
        raise ArgumentError(f'{path} is no image that Pillow can read') from None
    except Exception as error:  # its decoders raise OSError, SyntaxError, struct.error, ValueError
        raise ArgumentError(f'{path} cannot be read as an image: {error}') from error


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == 'F' or image.mode.startswith('I'):
        return _eight_bits(np.asarray(image), path).convert('RGB')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _eight_bits(values: np.ndarray, path: Path) -> Image.Image:
    """Integers of up to 16 bits, or floats from 0 to 1, as 8 bits."""
    most = 1.0 if values.dtype.kind == 'f' else 2**16 - 1
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise ArgumentError(
            f'{path} has values from {values.min():g} to {values.max():g}; brightness goes from 0 '
            f'to {most:g} in an image of {values.dtype}: scale it'
        )
    # Integers of 32 bits are what some files' 8 bits are read as.
    if values.dtype.kind != 'f' and values.dtype.itemsize > 2 and values.max() < 256:
        most = 255
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8))

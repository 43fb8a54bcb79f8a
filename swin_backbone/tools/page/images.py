"""Uploaded bytes as an image, or the reason why not."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow reads more, some of it by starting other programs: EPS starts Ghostscript.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Models resize to fewer; a detector's hundred masks of so many are 400 MB.
SEEN_PIXELS = 4_000_000
SEEN_SIDE = 8192  # a browser's canvas has its limits, too


class Refused(Exception):
    """A request that is not served: an HTTP status and a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def decode(content: bytes, max_pixels: int) -> np.ndarray:
    """An image file as people see it: turned as its EXIF data says, on white where it has alpha.

    16-bit greys lose their lower byte; greys of other types are stretched from their lowest to
    their highest value. Of an animation it is the first frame. An image of more than 4 million
    pixels, or a side of more than 8192, is shrunk to that.

    Args:
        content: The file.
        max_pixels: Of an image that is decoded at all; told from its header.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        Refused: It is no image (415), one of too many pixels (413) or a damaged one (400).
    """
    known = [name for name in FORMATS if name in Image.registered_extensions().values()]
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=known)
    except UnidentifiedImageError as error:
        kinds = 'JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM'
        raise Refused(415, f'This file is no image: give a {kinds}.') from error
    except Image.DecompressionBombError as error:
        raise Refused(413, f'The image has too many pixels: {max_pixels:,} are allowed.') from error
    except Exception as error:  # a hostile header may make Pillow raise anything
        raise Refused(400, f'The image is damaged: {error}.') from error
    width, height = image.size
    if width * height > max_pixels:
        has = f'{width} × {height} pixels'
        raise Refused(413, f'The image has too many pixels: {has}, and {max_pixels:,} are allowed.')
    try:
        return np.asarray(_as_seen(image))
    except Exception as error:  # as above
        raise Refused(400, f'The image is damaged: {error}.') from error


def encode(image: np.ndarray) -> bytes:
    """RGB as a JPEG file of high quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=95, subsampling=0)
    return file.getvalue()


def _as_seen(image: Image.Image) -> Image.Image:
    size = _shrunk(image.size)
    image.draft('RGB', size)  # JPEG alone: decodes no more than that needs
    image = _rgb(ImageOps.exif_transpose(image))
    size = _shrunk(image.size)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    ratio = min(1, math.sqrt(SEEN_PIXELS / (width * height)), SEEN_SIDE / max(size))
    return max(1, int(width * ratio)), max(1, int(height * ratio))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I;16'):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ('I', 'F'):
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        values -= values.min()
        values *= 255 / max(values.max(), 1e-9)
        image = Image.fromarray(values.round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')

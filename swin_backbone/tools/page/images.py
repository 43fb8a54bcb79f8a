"""Uploaded bytes as an image, or the reason for refusing them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .. import images

# Pillow reads more formats, and starts other programs for some: Ghostscript for EPS.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Models resize to fewer pixels anyway, and the masks of a hundred objects take 400 MB at this size.
SEEN_PIXELS = 4_000_000
SEEN_SIDE = 8192  # the limit of a browser's canvas
_STATUS = {'unknown': 415, 'large': 413, 'damaged': 400}


class Refused(Exception):
    """A request that is refused: an HTTP status and a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def decode(content: bytes, max_pixels: int = images.MAX_PIXELS) -> np.ndarray:
    """An uploaded image; see :func:`swin_backbone.tools.images.decode`.

    Images of more than 4 million pixels, or with a side of more than 8192, are shrunk to that.

    Args:
        content: The file.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        Refused: It is not an image (415), has too many pixels (413) or is damaged (400).
    """
    known = [name for name in FORMATS if name in Image.registered_extensions().values()]
    try:
        return images.decode(
            io.BytesIO(content),
            'The image',
            formats=known,
            max_pixels=max_pixels,
            shrink_to=(SEEN_PIXELS, SEEN_SIDE),
        )
    except images.ImageError as error:
        sentence = f'{error}.'
        if error.kind == 'unknown':
            kinds = 'JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM'
            sentence = f'This file is no image: give a {kinds}.'
        elif error.kind == 'damaged':
            sentence = f'The image is damaged: {error.__cause__}.'
        raise Refused(_STATUS[error.kind], sentence) from error


def encode(image: np.ndarray) -> bytes:
    """RGB as a JPEG file of high quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=95, subsampling=0)
    return file.getvalue()

"""Uploaded bytes become an image, or are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from swin_backbone.tools.page.images import SEEN_PIXELS, Refused, decode, encode

LIMIT = 10_000_000


def file_of(image: Image.Image, kind: str = 'PNG', **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'PPM', 'WEBP'])
def test_lossless_formats(kind, pixels):
    options = dict(lossless=True) if kind == 'WEBP' else {}
    np.testing.assert_array_equal(
        decode(file_of(Image.fromarray(pixels), kind, **options), LIMIT), pixels
    )


@pytest.mark.parametrize('kind', ['JPEG', 'GIF', 'AVIF'])
def test_other_formats(kind):
    if kind == 'AVIF' and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    flat = Image.new('RGB', (30, 20), (200, 100, 50))
    seen = decode(file_of(flat, kind), LIMIT)
    assert seen.shape == (20, 30, 3) and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - (200, 100, 50)).max() < 6


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_turned_as_exif_says(kind):
    image = Image.new('RGB', (40, 20), 'blue')
    image.paste('red', (0, 0, 20, 20))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter clockwise
    seen = decode(file_of(image, kind, exif=exif), LIMIT)
    assert seen.shape == (40, 20, 3)
    assert seen[5, 10, 0] > 200 and seen[35, 10, 2] > 200  # red is above


def test_large_ones_are_shrunk():
    assert decode(file_of(Image.new('L', (3000, 2000))), LIMIT).shape == (1632, 2449, 3)
    assert SEEN_PIXELS > 1632 * 2449
    assert decode(file_of(Image.new('L', (16384, 4))), LIMIT).shape == (2, 8192, 3)
    assert decode(file_of(Image.new('L', (2000, 2000))), LIMIT).shape == (2000, 2000, 3)
    photo = Image.new('RGB', (3000, 2000), (200, 100, 50))
    assert decode(file_of(photo, 'JPEG'), LIMIT).shape[:2] == (1632, 2449)


def of_size(width: int, height: int) -> bytes:
    """A PNG file with this size in its header and without pixels."""
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', head), (b'IDAT', b''), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize('side', [5_000, 20_000, 2**31 - 1])
def test_too_many_pixels_are_never_decoded(side, monkeypatch):
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(Refused, match='too many pixels') as caught:
        decode(of_size(side, side), LIMIT)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'hello, world\n' * 100,
        b'\xff\xfe\x00\x00',
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n',
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b'%PDF-1.7\n',
    ],
    ids=['empty', 'text', 'bytes', 'eps', 'svg', 'pdf'],
)
def test_no_image(content):
    with pytest.raises(Refused, match=r'no image: give a JPEG, PNG, .*\.$') as caught:
        decode(content, LIMIT)
    assert caught.value.status == 415


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'GIF', 'BMP', 'PPM'])
def test_damaged(kind, pixels):
    whole = file_of(Image.fromarray(pixels), kind)
    for length in (len(whole) // 2, len(whole) - len(whole) // 8):
        with pytest.raises(Refused) as caught:
            decode(whole[:length], LIMIT)
        assert caught.value.status in (400, 415)
    rng = np.random.default_rng(0)
    for _ in range(60):  # no byte of a file makes it raise anything else
        broken = np.frombuffer(whole, np.uint8).copy()
        broken[rng.integers(len(broken), size=4)] = rng.integers(256, size=4)
        try:
            assert decode(broken.tobytes(), LIMIT).ndim == 3
        except Refused as refused:
            assert refused.status in (400, 413, 415)


def test_encoded_stays_the_same_to_the_eye():
    y, x = np.mgrid[:40, :60]
    smooth = np.stack([4 * x, 6 * y, 3 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)
    again = decode(encode(smooth), LIMIT)
    assert again.shape == smooth.shape
    assert np.abs(again.astype(int) - smooth).mean() < 1.5

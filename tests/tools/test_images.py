"""Images of every mode are read as RGB; other files are refused with a sentence."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from swin_backbone import ArgumentError
from swin_backbone.tools import images
from swin_backbone.tools.images import SAMPLES, ImageError, decode, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
GREY_AS_RGB = np.repeat(GREY[..., None], 3, 2)


@pytest.fixture
def written(tmp_path):
    def write(image, name='a.png', **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def test_rgb(written):
    np.testing.assert_array_equal(read_image(written(Image.fromarray(RGB))), RGB)


def test_grey_and_palette(written):
    np.testing.assert_array_equal(read_image(written(Image.fromarray(GREY))), GREY_AS_RGB)
    indexed = Image.fromarray(GREY).quantize(256)
    np.testing.assert_array_equal(read_image(written(indexed)), GREY_AS_RGB)
    few = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read_image(written(few)), np.asarray(few.convert('RGB')))
    one_bit = read_image(written(Image.fromarray(GREY > 128)))
    np.testing.assert_array_equal(one_bit, np.where(GREY_AS_RGB > 128, 255, 0))


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_is_white(written, mode):
    image = Image.new('RGBA', (30, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 15, 20))
    found = read_image(written(image.convert(mode)))
    assert found[:, :15].max() == 0 and found[:, 15:].min() == 255


def test_half_transparent(written):
    image = Image.new('RGBA', (4, 4), (200, 0, 100, 51))  # a fifth
    np.testing.assert_allclose(read_image(written(image))[0, 0], (244, 204, 224), atol=1)


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_sixteen_bits(written, name):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert deep.mode == 'I;16'
    np.testing.assert_array_equal(read_image(written(deep, name)), GREY_AS_RGB)
    dark = Image.fromarray(np.full((2, 2), 1000, np.uint16))  # and not stretched
    assert (read_image(written(dark, name)) == 4).all()


def test_thirty_two_bits(written):
    for values in (GREY.astype(np.int32), GREY.astype(np.int32) * 257):
        values[0, :2] = 0, values.max()
        found = read_image(written(Image.fromarray(values), 'a.tif'))
        np.testing.assert_array_equal(found[1:], GREY_AS_RGB[1:])
    far = np.array([[-70_000, 70_000]], np.int32)
    assert read_image(written(Image.fromarray(far), 'a.tif'))[0, :, 0].tolist() == [0, 255]


def test_floats_from_0_to_1(written):
    values = GREY.astype(np.float32) / 255 / 2
    found = read_image(written(Image.fromarray(values), 'a.tif'))
    np.testing.assert_allclose(found, GREY_AS_RGB / 2, atol=0.51)


def test_other_floats_are_stretched(written):
    values = np.linspace(-3, 9, 600, dtype=np.float32).reshape(20, 30)
    values[0, 1], values[0, 2] = np.nan, np.inf
    found = read_image(written(Image.fromarray(values), 'a.tif'))
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)
    assert (found[0, 1:3] == round(255 * 3 / 12)).all()
    flat = np.full((2, 2), 7, np.float32)
    assert read_image(written(Image.fromarray(flat), 'a.tif')).max() == 0


def test_cmyk(written):
    paper = Image.new('CMYK', (7, 5), (0, 255, 255, 0))  # red ink
    for name, options in (('a.tif', {}), ('a.jpg', dict(quality=100))):
        found = read_image(written(paper, name, **options))
        assert found.shape == (5, 7, 3)
        np.testing.assert_allclose(found[2, 3], (255, 0, 0), atol=6)


def test_exif_rotation_is_applied(written):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = read_image(written(Image.fromarray(RGB), exif=exif))
    np.testing.assert_array_equal(found, np.rot90(RGB, -1))


@pytest.mark.parametrize('name', ['a.gif', 'a.tif'])
def test_the_first_image_of_several(written, name):
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'blue')]
    found = read_image(written(frames[0], name, save_all=True, append_images=frames[1:]))
    assert (found == (255, 0, 0)).all()


def test_samples():
    for name in SAMPLES:
        found = read_image(name)
        assert found.dtype == np.uint8 and found.shape[2] == 3 and min(found.shape[:2]) > 200
    assert read_image('astronaut').shape == (512, 512, 3)


def test_a_file_before_a_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RGB).save('coins', 'png')
    assert read_image('coins').shape == RGB.shape


def test_what_is_no_image(tmp_path, written, monkeypatch):
    with pytest.raises(ArgumentError, match=r'astronot is not there.*astronaut'):
        read_image('astronot')
    with pytest.raises(ArgumentError, match='is a folder'):
        read_image(tmp_path)
    text = tmp_path / 'a.txt'
    text.write_text('no image')
    with pytest.raises(ArgumentError, match='no image that Pillow can read'):
        read_image(text)
    whole = written(Image.fromarray(np.tile(RGB, (20, 20, 1))), 'whole.png')
    cut = tmp_path / 'cut.png'
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ArgumentError, match='cannot be read as an image'):
        read_image(cut)
    monkeypatch.setattr(images, 'MAX_PIXELS', 1000)
    with pytest.raises(ArgumentError, match='140 × 100 pixels, and 1,000 are allowed'):
        read_image(whole)


def test_formats_that_are_not_accepted():
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, 'PNG')
    with pytest.raises(ImageError, match='the upload is no image') as caught:
        decode(file, 'the upload', formats=['JPEG'])
    assert caught.value.kind == 'unknown'

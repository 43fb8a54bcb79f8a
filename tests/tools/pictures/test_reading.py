"""Images of every mode come out as RGB; what is none is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from swin_backbone import ArgumentError
from swin_backbone.tools.pictures import images
from swin_backbone.tools.pictures.images import SAMPLES, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def written(tmp_path):
    def write(image, name='a.png', **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def test_rgb(written):
    np.testing.assert_array_equal(read_image(written(Image.fromarray(RGB))), RGB)


def test_grey_and_palette(written):
    grey = RGB[..., 0]
    wanted = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(read_image(written(Image.fromarray(grey))), wanted)
    indexed = Image.fromarray(grey).quantize(256)
    np.testing.assert_array_equal(read_image(written(indexed)), wanted)
    one_bit = read_image(written(Image.fromarray(grey > 128)))
    np.testing.assert_array_equal(one_bit, np.where(wanted > 128, 255, 0))


def test_transparent_is_white(written):
    alpha = np.zeros((5, 7), np.uint8)
    alpha[0] = 255
    found = read_image(written(Image.fromarray(np.dstack([RGB, alpha]))))
    np.testing.assert_array_equal(found[0], RGB[0])
    assert (found[1:] == 255).all()
    grey = Image.fromarray(np.dstack([RGB[..., 0], alpha]))
    assert (read_image(written(grey))[1:] == 255).all()


@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_sixteen_bits(written, name):
    deep = (RGB[..., 0].astype(np.uint16) * 257).astype(np.uint16)
    found = read_image(written(Image.fromarray(deep), name))
    np.testing.assert_array_equal(found, np.repeat(RGB[..., :1], 3, 2))


def test_floats(written):
    values = RGB[..., 0].astype(np.float32) / 255
    found = read_image(written(Image.fromarray(values), 'a.tif'))
    np.testing.assert_array_equal(found, np.repeat(RGB[..., :1], 3, 2))
    for wrong in (values * 300, values - 1, np.full_like(values, np.nan)):
        with pytest.raises(ArgumentError, match='from 0 to 1 in an image of float32'):
            read_image(written(Image.fromarray(wrong), 'b.tif'))


def test_cmyk(written):
    paper = Image.new('CMYK', (7, 5), (0, 255, 255, 0))  # red, in ink
    found = read_image(written(paper, 'a.jpg', quality=100))
    assert found.shape == (5, 7, 3)
    np.testing.assert_allclose(found[2, 3], (255, 0, 0), atol=6)


def test_the_cameras_rotation_is_undone(written):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = read_image(written(Image.fromarray(RGB), exif=exif))
    np.testing.assert_array_equal(found, np.rot90(RGB, -1))


def test_an_animations_first_picture(written):
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'blue')]
    found = read_image(written(frames[0], 'a.gif', save_all=True, append_images=frames[1:]))
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
    with pytest.raises(ArgumentError, match='140 × 100 pixels'):
        read_image(whole)

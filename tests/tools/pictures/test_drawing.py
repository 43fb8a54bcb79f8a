"""Predictions are drawn at the right places, with their colours and names."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageDraw

from swin_backbone import ArgumentError
from swin_backbone.tools.pictures.drawing import draw_prediction, zoom
from swin_backbone.tools.predictor import Prediction

IMAGE = np.full((64, 96, 3), 100, np.uint8)
PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
NAMES = ('disc', 'square', 'ring')


def boxes(*boxes, scores, labels, masks=None):
    return Prediction(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels),
        masks=masks,
    )


@pytest.fixture
def texts(monkeypatch):
    """The text in the picture."""
    found = []
    write = ImageDraw.ImageDraw.text

    def text(self, place, words, *args, **options):
        found.append((words, place))
        return write(self, place, words, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', text)
    return found


def drawn(prediction, **options):
    picture = draw_prediction(IMAGE, prediction, NAMES.__getitem__, PALETTE, **options)
    return np.asarray(picture).astype(int)


def test_a_box_is_where_it_was_predicted():
    factor = zoom(IMAGE)
    assert factor == 8
    pixels = drawn(boxes([20, 25, 60, 50], scores=[0.9], labels=[1]))
    green = (pixels == (0, 255, 0)).all(2)[: 64 * 8]
    # Its right and lower edge, where no label lies.
    assert green[50 * 8, 30 * 8 : 55 * 8].all() and green[30 * 8 : 48 * 8, 60 * 8].all()
    rows, columns = np.nonzero(green)
    assert abs(columns.min() - 20 * 8) <= 2 and abs(columns.max() - 60 * 8) <= 2
    assert abs(rows.max() - 50 * 8) <= 2
    # Without a mask, the inside is the image's.
    assert (pixels[30 * 8 : 45 * 8, 40 * 8 : 58 * 8] == 100).all()


def test_masks_tint_their_pixels_alone():
    mask = np.zeros((1, 64, 96), bool)
    mask[0, 30:45, 30:50] = True
    pixels = drawn(boxes([20, 25, 60, 50], scores=[0.9], labels=[2], masks=mask))
    inside, outside = pixels[37 * 8, 40 * 8], pixels[47 * 8, 55 * 8]
    np.testing.assert_allclose(inside, (55, 55, 170), atol=1)  # 45 % of blue on 100
    assert (outside == 100).all()


def test_scores_below_are_left_out(texts):
    found = boxes(*([10, 20, 30, 40], [50, 20, 80, 40]), scores=[0.9, 0.3], labels=[0, 1])
    pixels = drawn(found)
    assert not (pixels == (0, 255, 0)).all(2).any()
    words = [word for word, _ in texts]
    assert words == ['disc 0.90', 'disc × 1', 'score ≥ 0.5; 1 more below it']
    texts.clear()
    assert (drawn(found, score=0.3) == (0, 255, 0)).all(2).any()
    assert [word for word, _ in texts][:2] == ['disc 0.90', 'square 0.30']
    with pytest.raises(ArgumentError, match=r'score=1\.5'):
        drawn(found, score=1.5)


def test_labels_do_not_cover_each_other(texts):
    same = [[40, 30, 60, 50]] * 4
    drawn(boxes(*same, scores=[0.9, 0.8, 0.7, 0.6], labels=[0, 1, 2, 0]))
    places = [place for word, place in texts if word[-3:-2] == '.']
    assert len({(round(x), round(y)) for x, y in places}) == 4


def test_labels_stay_within_the_image(texts):
    edges = [[-5, -5, 10, 10], [90, 0, 99, 8], [0, 60, 8, 64], [92, 60, 96, 64]]
    drawn(boxes(*edges, scores=[0.9] * 4, labels=[0, 1, 2, 0]))
    for word, (x, y) in texts[:4]:
        assert word.endswith('0.90') and 0 <= x < 96 * 8 - 60 and 0 <= y < 64 * 8 - 15


def test_nothing_found(texts):
    pixels = drawn(boxes(scores=[], labels=[]))
    assert (pixels[: 64 * 8, : 96 * 8] == 100).all()
    assert [word for word, _ in texts] == ['nothing found with score ≥ 0.5']


def test_segments_and_their_shares(texts):
    segments = np.zeros((64, 96), np.int64)
    segments[:, 24:] = 2
    segments[0, 0] = 255  # of no class
    pixels = drawn(Prediction(segments=segments))
    np.testing.assert_allclose(pixels[30 * 8, 10 * 8], (193, 40, 40), atol=1)
    np.testing.assert_allclose(pixels[30 * 8, 50 * 8], (40, 40, 193), atol=1)
    assert (pixels[2, 2] == 100).all()
    assert (pixels[30 * 8, 24 * 8] == 255).all() and (pixels[30 * 8, 24 * 8 - 1] != 255).any()
    words = [word for word, _ in texts]
    assert words == ['ring 75 %', 'disc 25 %', 'share of the pixels']


def test_classes_as_bars(texts):
    pixels = drawn(Prediction(scores=np.array([0.2, 0.5, 0.3], np.float32)))
    words = [word for word, _ in texts]
    assert words == ['square', '50.0 %', 'ring', '30.0 %', 'disc', '20.0 %']
    blue = (pixels == (31, 119, 180)).all(2)
    lengths = [row.sum() for row in blue if row.any()]
    assert sorted(set(lengths)) == [53, 79, 131]  # of 260, and the pixel it begins at


def test_large_images_are_reduced():
    image = np.zeros((100, 4000, 3), np.uint8)
    found = boxes([100, 10, 2000, 90], scores=[0.9], labels=[0])
    picture = draw_prediction(image, found, NAMES.__getitem__, PALETTE)
    assert zoom(image) == 0.4 and picture.width == 1600
    red = (np.asarray(picture) == (255, 0, 0)).all(2)
    assert red[36, 100:700].all()

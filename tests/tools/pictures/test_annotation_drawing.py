"""Samples are drawn with their annotations."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from own_data import coco, dataset, label_maps, segmented
from PIL import ImageDraw

import swin_backbone  # noqa: F401
from swin_backbone.tools.pictures.annotations import draw_sample
from swin_backbone.tools.pictures.drawing import draw_annotation
from swin_backbone.tools.predictor import Prediction, palette_of


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """The text in the picture."""
    found = []
    write = ImageDraw.ImageDraw.text

    def text(self, place, words, *args, **options):
        found.append(words)
        return write(self, place, words, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', text)
    return found


def built(settings: dict, scope: str):
    init_default_scope(scope)
    __import__(f'{scope}.datasets')
    return DATASETS.build(settings)


def test_boxes_and_masks(tmp_path, texts):
    coco(tmp_path)
    data = built(dataset(tmp_path), 'mmdet')
    pixels = np.asarray(draw_sample(data, 1)).astype(int)
    assert texts == ['plate', 'plate × 1', 'as annotated']
    colour = palette_of(data.metainfo, 2)[1].astype(int)
    inside = pixels[16 * 16, 16 * 20]
    # The square is at 7 to 31, its grey of 200 and the class's colour mixed.
    assert np.abs(inside - (200 + 0.45 * (colour - 200))).max() <= 1
    assert (pixels[16 * 40, 16 * 40] == 60).all()


def test_boxes_without_masks_and_nothing_at_all(tmp_path, texts):
    coco(tmp_path, masks=False)
    pixels = np.asarray(draw_sample(built(dataset(tmp_path), 'mmdet'), 0))
    assert texts[0] == 'lid' and (pixels[16 * 16, 16 * 16] == 200).all()
    texts.clear()
    draw_sample(built(dataset(tmp_path, ('ring',)), 'mmdet'), 0)
    assert texts == ['nothing is annotated']


def test_segments(tmp_path, texts):
    data = built(segmented(label_maps(tmp_path)), 'mmseg')
    pixels = np.asarray(draw_sample(data, 0)).astype(int)
    assert texts[:2] == ['ground 91 %', 'crack 9 %']
    ground, crack = (np.array(colour) for colour in data.metainfo['palette'])
    scale = 768 / 60
    for colour, (row, column) in ((crack, (12, 12)), (ground, (30, 40))):
        mixed = pixels[round(scale * row), round(scale * column)]
        assert np.abs(mixed - (90 + 0.6 * (colour - 90))).max() <= 3  # it was a JPEG


def test_ignored_pixels_are_left_as_they_are(tmp_path, texts):
    data = built(segmented(label_maps(tmp_path, inside=255)), 'mmseg')
    pixels = np.asarray(draw_sample(data, 0)).astype(int)
    assert texts[0] == 'ground 91 %' and not any('ignored' in text for text in texts)
    assert np.abs(pixels[round(768 / 60 * 12), round(768 / 60 * 12)] - 90).max() <= 2


def test_classes_of_an_image(texts):
    image = np.full((20, 30, 3), 80, np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
    drawn = draw_annotation(
        image, Prediction(labels=np.array([1])), ('cat', 'dog').__getitem__, palette
    )
    assert texts == ['dog', 'as annotated']
    pixels = np.asarray(drawn)
    assert (pixels[: 20 * 768 // 30] == 80).all() and (pixels == (0, 255, 0)).all(2).any()

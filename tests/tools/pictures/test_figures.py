"""Figures draw tokens at their positions on the image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image
from small import SMALL, randomized

from swin_backbone import ArgumentError, SwinTransformer
from swin_backbone.tools.pictures.figures import (
    attend,
    draw_attention,
    draw_features,
    grids,
    on_map,
)
from swin_backbone.tools.pictures.observation import observe, partners, token_sides
from swin_backbone.tools.pictures.show import look
from swin_backbone.tools.pictures.subject import Subject

SIZE = (75, 150)  # 19 × 38 tokens of the first stage


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few pixels, so that drawing is fast."""
    monkeypatch.setattr('swin_backbone.tools.pictures.show.DOTS_PER_INCH', 40)


@pytest.fixture(scope='module')
def subject():
    torch.manual_seed(0)
    model = randomized(SwinTransformer(**SMALL)).eval()
    return Subject('small', 'mine.pth', model, None, 'there is a backbone alone')


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def attention(subject, image, point, stage=0):
    view = subject.view(image)
    blocks = partners(subject.backbone, stage)
    seen = observe(subject.backbone, view.inputs, [(stage, block) for block in blocks])
    return view, blocks, attend(subject, view, seen, stage, blocks, point)


def test_features_cover_the_image(subject, image):
    view = subject.view(image)
    maps = observe(subject.backbone, view.inputs).maps
    figure = draw_features(image, subject, view, maps)
    first, *stages = figure.axes
    assert first.images[0].get_extent() == [0, 150, 75, 0]
    # 19 × 38 tokens of 4 pixels reach a little beyond it, as the patches do.
    assert [list(axis.images[0].get_extent()) for axis in stages] == [
        [0, 152, 76, 0], [0, 152, 80, 0], [0, 160, 80, 0], [0, 160, 96, 0]
    ]  # fmt: skip
    assert stages[0].images[0].get_array().shape == (19, 38, 3)
    assert all(axis.get_xlim() == (0, 150) and axis.get_ylim() == (75, 0) for axis in figure.axes)
    assert 'stage 1: 48 channels, 19 × 10 tokens' in stages[1].get_title()
    assert figure.get_suptitle() == 'Feature maps of small, mine.pth'


def test_windows_lie_around_the_point(subject, image):
    view, blocks, found = attention(subject, image, (70, 30))
    assert blocks == [0, 1] and [one.shift for one in found] == [0, 2]
    assert [one.query for one in found] == [(7, 17)] * 2
    figure = draw_attention(image, subject, view, 0, blocks, found, (70, 30))
    axes = [axis for part in figure.subfigs for axis in part.axes]
    picture, plain, shifted = axes[:3]

    def boxes(axis):
        patches = [p for p in axis.patches if isinstance(p, Rectangle)][1::2]
        return [(*p.get_xy(), p.get_width(), p.get_height()) for p in patches]

    # Windows of 4 × 4 tokens of 4 pixels; the shifted begin 2 tokens in.
    assert boxes(plain) == [(64, 16, 16, 16)] and boxes(shifted) == [(56, 24, 16, 16)]
    assert boxes(picture) == boxes(plain) + boxes(shifted)
    assert all(axis.get_lines()[0].get_xydata().tolist() == [[70, 30]] for axis in axes[:3])
    # The heat is on the window alone, and is as strong as the weights.
    heat = plain.images[1].get_array()
    assert heat.shape[:2] == (20, 40) or heat.shape[:2] == (19, 38)
    opaque = np.argwhere(heat[..., 3] > 0)
    assert opaque.min(0).tolist() == [4, 16] and opaque.max(0).tolist() == [7, 19]
    brightest = np.unravel_index(heat[..., :3].sum(2).argmax(), heat.shape[:2])
    mean = found[0].mean
    assert (brightest[0] - 4, brightest[1] - 16) == np.unravel_index(mean.argmax(), mean.shape)
    heads = [axis for axis in axes[3:] if axis.get_visible()]
    assert len(heads) == 2 * SMALL['num_heads'][0]


def test_wrapped_windows_are_drawn_in_parts(subject, image):
    view, blocks, found = attention(subject, image, (149, 74))
    assert found[1].query == (18, 37)
    assert found[1].pieces() == [(18, 20, 34, 38), (0, 2, 34, 38)]
    figure = draw_attention(image, subject, view, 0, blocks, found, (149, 74))
    picture = figure.subfigs[0].axes[0]
    corners = [tuple(p.get_xy()) for p in picture.patches if isinstance(p, Rectangle)]
    assert corners[1::2] == [(144, 64), (136, 72), (136, 0)]
    assert picture.get_xlim()[1] > 150  # room for what is in the padding
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert 'padding' in texts and any('masked' in text for text in texts)


def test_weights_on_the_map(subject, image):
    _, _, (plain, shifted) = attention(subject, image, (70, 30))
    for one in (plain, shifted):
        field = on_map(one, one.mean)
        assert np.nansum(field) == pytest.approx(1, abs=1e-5)
        assert np.isfinite(field).sum() == 16
        top, _, left, _ = one.pieces()[0]
        np.testing.assert_array_equal(field[top : top + 4, left : left + 4], one.mean)


def test_tokens_of_other_shapes():
    model = SwinTransformer(**{**SMALL, 'strides': (4, 2, 1, 2)})
    assert token_sides(model) == [(4, 4), (8, 8), (8, 8), (16, 16)]
    assert partners(model, 0) == [0, 1] and partners(model, 0, 1) == [0, 1]
    odd = SwinTransformer(**{**SMALL, 'depths': (1, 3, 2, 2)})
    assert partners(odd, 0) == [0] and partners(odd, 1) == [0, 1] and partners(odd, 1, 2) == [2]


def test_pictures_of_an_image(subject, image):
    pictures = look(image, subject, point=(70, 30), stage=1)
    assert set(pictures.png) == {'features', 'attention', 'rollout'}
    assert pictures.missing == {'prediction': 'there is a backbone alone'}
    for png in pictures.png.values():
        assert Image.open(io.BytesIO(png)).size[0] > 300
    blocks = pictures.facts['attention']['blocks']
    assert [b['token'] for b in blocks] == [[3, 8]] * 2 and [b['shift'] for b in blocks] == [0, 2]
    assert [f['tokens'] for f in pictures.facts['features']] == [
        [19, 38], [10, 19], [5, 10], [3, 5]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(what='prediction'), 'no prediction to show: there is a backbone alone'),
        (dict(point=(150, 10)), r'point=150, 10 is not on what the model sees.*0 to 150 across'),
        (dict(point=(-1, 10)), 'point=-1, 10'),
        (dict(stage=4), 'stage=4 must be one of the stages that run, 0 to 3'),
        (dict(block=2), 'block=2 must be one of stage 2, 0 to 1'),
    ],
)
def test_what_there_is_not(subject, image, options, message):
    with pytest.raises(ArgumentError, match=message):
        look(image, subject, **options)


@pytest.mark.parametrize('size', [(4, 4), (4, 900), (700, 5)], ids=str)
def test_images_of_odd_shapes(subject, size):
    pictures = look(np.full((*size, 3), 77, np.uint8), subject)
    assert set(pictures.png) == {'features', 'attention', 'rollout'}


def test_an_image_smaller_than_a_patch(subject):
    with pytest.raises(ArgumentError, match='smaller than one patch'):
        look(np.zeros((3, 10, 3), np.uint8), subject)


def test_titles_say_that_weights_are_random(image):
    from swin_backbone.tools.pictures.subject import RANDOM

    subject = Subject('small', RANDOM, SwinTransformer(**SMALL).eval(), None, 'no weights')
    view = subject.view(image)
    figure = draw_features(image, subject, view, observe(subject.backbone, view.inputs).maps)
    assert 'random weights, untrained' in figure.get_suptitle()
    assert len(grids(subject, view)) == 4

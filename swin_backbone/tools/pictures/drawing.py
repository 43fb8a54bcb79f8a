"""Draws predictions and annotations on their image, with a legend of the colours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import ArgumentError
from ..predictor import Prediction

# Range of the longer side of drawn images in pixels; small ones are enlarged to fit the labels.
LONGER_SIDE = (768, 1600)
PAPER, INK, FAINT = (255, 255, 255), (34, 34, 34), (120, 120, 120)
MASK_OPACITY = 0.45
SEGMENT_OPACITY = 0.6
TOP = 5  # number of a classifier's classes to draw

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
Name = Callable[[int], str]


def draw_prediction(
    image: np.ndarray,
    prediction: Prediction,
    name: Name,
    palette: np.ndarray,
    score: float = 0.5,
) -> Image.Image:
    """A prediction on its image, with a legend below it; for a classifier, with bars beside it.

    The image is at the top left, scaled by :func:`zoom`.

    Args:
        image: uint8 (H, W, 3), RGB.
        prediction: The model's prediction.
        name: Maps labels to names.
        palette: RGB of each class, uint8 (classes, 3).
        score: Boxes with at least this score are drawn, from 0 to 1.

    Raises:
        ArgumentError: The score is not from 0 to 1.
    """
    if not 0 <= score <= 1:
        raise ArgumentError(f'score={score} must be from 0 to 1')
    if prediction.boxes is not None:
        return _detections(image, prediction, name, palette, score)
    if prediction.segments is not None:
        return _segments(image, prediction.segments, name, palette)
    assert prediction.scores is not None
    return _classes(image, prediction.scores, name)


def draw_annotation(
    image: np.ndarray, annotation: Prediction, name: Name, palette: np.ndarray
) -> Image.Image:
    """An annotation on its image, with a legend below it: boxes, segments, or the image's classes.

    Args:
        image: uint8 (H, W, 3), RGB.
        annotation: The annotation, without scores. ``labels`` are those of the boxes, or of the
            whole image if there are no boxes.
        name: Maps labels to names.
        palette: RGB of each class, uint8 (classes, 3).
    """
    if annotation.boxes is not None:
        return _detections(image, annotation, name, palette, 0.0)
    if annotation.segments is not None:
        return _segments(image, annotation.segments, name, palette)
    labels = () if annotation.labels is None else annotation.labels
    entries = [(_colour(palette, label), name(int(label))) for label in labels]
    return _with_legend(_enlarged(image, zoom(image)), entries, 'as annotated')


def zoom(image: np.ndarray) -> float:
    """The scale of the drawn image."""
    longer = max(image.shape[:2])
    least, most = LONGER_SIDE
    return min(max(longer, least), most) / longer


def _detections(
    image: np.ndarray, found: Prediction, name: Name, palette: np.ndarray, score: float
) -> Image.Image:
    assert found.boxes is not None and found.labels is not None
    factor, scores = zoom(image), found.scores
    canvas = _enlarged(image, factor)
    # The best boxes are drawn last, on top.
    shown = [i for i in range(len(found.boxes)) if scores is None or scores[i] >= score][::-1]
    if found.masks is not None:
        canvas = _with_masks(canvas, found.masks[shown], found.labels[shown], palette)
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 350))
    for i in shown:
        box = tuple(float(side) * factor for side in found.boxes[i])
        _outline(draw, box, _colour(palette, found.labels[i]), width)
    placed: list[Rectangle] = []
    for i in shown[::-1]:  # the labels of the best boxes are placed first
        text = name(int(found.labels[i])) + ('' if scores is None else f' {scores[i]:.2f}')
        box = tuple(float(side) * factor for side in found.boxes[i])
        _label(draw, canvas.size, text, box, _colour(palette, found.labels[i]), placed)
    labels, counts = np.unique(found.labels[shown], return_counts=True)
    entries = [
        (_colour(palette, label), f'{name(int(label))} × {count}')
        for label, count in zip(labels, counts, strict=True)
    ]
    if scores is None:
        return _with_legend(canvas, entries, 'as annotated' if shown else 'nothing is annotated')
    hidden = len(scores) - len(shown)
    note = f'score ≥ {score:g}' + (f'; {hidden} more below it' if hidden else '')
    return _with_legend(canvas, entries, note if shown else f'nothing found with {note}')


def _with_masks(
    canvas: Image.Image, masks: np.ndarray, labels: np.ndarray, palette: np.ndarray
) -> Image.Image:
    pixels = np.asarray(canvas, dtype=np.float32).copy()
    for mask, label in zip(masks, labels, strict=True):
        # Interpolation gives smooth edges if the image is enlarged.
        grey = Image.fromarray((255 * mask).astype(np.uint8))
        cover = np.asarray(grey.resize(canvas.size, Image.Resampling.BILINEAR), np.float32) / 255
        inside = cover >= 0.5
        opacity = np.where(inside, MASK_OPACITY, 0) + (0.9 - MASK_OPACITY) * _edge(inside)
        colour = np.array(_colour(palette, label), np.float32)
        pixels += opacity[..., None] * (colour - pixels)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _segments(
    image: np.ndarray, segments: np.ndarray, name: Name, palette: np.ndarray
) -> Image.Image:
    canvas = _enlarged(image, zoom(image))
    classes = Image.fromarray(segments.astype(np.int32)).resize(
        canvas.size, Image.Resampling.NEAREST
    )
    labels = np.asarray(classes)
    known = (labels >= 0) & (labels < len(palette))
    colours = np.where(known[..., None], palette[np.where(known, labels, 0)], 0)
    pixels = np.asarray(canvas, dtype=np.float32)
    mixed = pixels + SEGMENT_OPACITY * known[..., None] * (colours - pixels)
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    mixed[border] = 255
    found, counts = np.unique(segments, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    entries = [
        (_colour(palette, found[i]), f'{name(int(found[i]))} {_percent(counts[i] / segments.size)}')
        for i in order
        if 0 <= found[i] < len(palette)
    ]
    canvas = Image.fromarray(mixed.round().astype(np.uint8))
    return _with_legend(canvas, entries, 'share of the pixels')


def _percent(share: float) -> str:
    return '< 1 %' if share < 0.005 else f'{100 * share:.0f} %'


def _classes(image: np.ndarray, scores: np.ndarray, name: Name) -> Image.Image:
    """The image, and its most probable classes as bars."""
    picture = _enlarged(image, zoom(image))
    best = np.argsort(-scores, kind='stable')[:TOP]
    margin, bar, row = 24, 260, 56
    font, small = _font(20), _font(16)
    texts = [name(int(label)) for label in best]
    width = max(bar + 90, *(round(font.getlength(text)) for text in texts)) + 2 * margin
    height = max(picture.height, len(best) * row + 2 * margin)
    canvas = Image.new('RGB', (picture.width + width, height), PAPER)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = picture.width + margin
    for i, (label, text) in enumerate(zip(best, texts, strict=True)):
        top = margin + i * row
        draw.text((left, top), text, INK, font)
        line = top + 30
        draw.rectangle((left, line, left + bar, line + 12), (232, 232, 232))
        length = round(bar * float(scores[label]))
        draw.rectangle((left, line, left + length, line + 12), (31, 119, 180))
        draw.text((left + bar + 12, line - 5), f'{100 * scores[label]:.1f} %', INK, small)
    return canvas


def _enlarged(image: np.ndarray, factor: float) -> Image.Image:
    size = tuple(max(round(side * factor), 1) for side in (image.shape[1], image.shape[0]))
    picture = Image.fromarray(image)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def _edge(mask: np.ndarray, width: int = 2) -> np.ndarray:
    """The pixels of a mask within ``width`` pixels of its edge; the image's edge does not count."""
    inner = mask
    for _ in range(width):
        around = np.pad(inner, 1, mode='edge')
        inner = inner & around[2:, 1:-1] & around[:-2, 1:-1] & around[1:-1, 2:] & around[1:-1, :-2]
    return mask & ~inner


def _outline(draw: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, width: int) -> None:
    """Draws a rectangle centered on the box's edges, with a thin dark line around it."""
    left, top, right, bottom = (round(side) for side in box)
    right, bottom = max(right, left), max(bottom, top)
    half = width // 2
    draw.rectangle(
        (left - half - 1, top - half - 1, right + half + 1, bottom + half + 1),
        outline=(0, 0, 0),
        width=1,
    )
    draw.rectangle(
        (left - half, top - half, right + half, bottom + half), outline=colour, width=width
    )


def _label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    text: str,
    box: Sequence[float],
    colour: Colour,
    placed: list[Rectangle],
) -> None:
    """Draws a label at its box, where it overlaps others least."""
    font = _font(max(14, round(max(size) / 52)))
    pad = 3
    width = font.getlength(text) + 2 * pad
    height = sum(font.getmetrics()) + 2
    left, top, right, bottom = box
    places = [
        (x, y)
        for y in (top - height, top, bottom, bottom - height, (top + bottom - height) / 2)
        for x in (left, right - width)
    ]
    places = [
        (min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0)))
        for x, y in places
    ]

    def covered(place: tuple[float, float]) -> float:
        mine = (*place, place[0] + width, place[1] + height)
        return sum(_common(mine, other) for other in placed)

    x, y = min(places, key=covered)
    placed.append((x, y, x + width, y + height))
    draw.rectangle((x, y, x + width, y + height), colour)
    draw.text((x + pad, y + 1), text, _readable_on(colour), font)


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    """The area of the intersection of two rectangles."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)


def _with_legend(
    canvas: Image.Image, entries: Sequence[tuple[Colour, str]], note: str
) -> Image.Image:
    """Adds a legend of the colours below a picture, in as many rows as needed."""
    font, margin, square, gap = _font(18), 14, 16, 26
    items = [*entries, (None, note)]
    places, x, y = [], margin, margin
    for colour, text in items:
        width = round(font.getlength(text)) + (square + 7 if colour is not None else 0)
        if x > margin and x + width > canvas.width - margin:
            x, y = margin, y + 28
        places.append((x, y))
        x += width + gap
    widest = max(x for x, _ in places) + margin
    widest = max(widest, margin * 2 + max(round(font.getlength(t)) + square + 7 for _, t in items))
    paper = Image.new('RGB', (max(canvas.width, widest), canvas.height + y + 36), PAPER)
    paper.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(paper)
    for (x, y), (colour, text) in zip(places, items, strict=True):
        y += canvas.height
        if colour is None:
            draw.text((x, y - 2), text, FAINT, font)
        else:
            draw.rectangle((x, y + 2, x + square, y + 2 + square), colour, outline=INK)
            draw.text((x + square + 7, y - 2), text, INK, font)
    return paper


def _colour(palette: np.ndarray, label: int | np.integer) -> Colour:
    if not 0 <= label < len(palette):
        return FAINT
    red, green, blue = (int(c) for c in palette[label])
    return red, green, blue


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever has more contrast."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib contains and which covers most alphabets."""
    folder = Path(matplotlib.get_data_path(), 'fonts', 'ttf')
    return ImageFont.truetype(folder / 'DejaVuSans.ttf', size)

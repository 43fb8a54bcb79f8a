"""Figures of predictions beside the ground truth, and of training losses."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import matplotlib

matplotlib.use('Agg')

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Patch, Rectangle
from pycocotools import mask as rle
from pycocotools.coco import COCO

from .scenes import CLASSES, PALETTE, SEGMENTS

_SCENES = 8  # number of validation scenes in a figure
_SCORE = 0.5  # least score of the detections in a figure
_COLOURS = np.array(PALETTE) / 255


def draw_detections(data: Path, predictions: Path, target: Path) -> None:
    """Draws predicted boxes and masks beside the ground truth for the first validation scenes.

    Args:
        data: The dataset folder that ``scenes.prepare`` wrote.
        predictions: The file that ``mim test mmdet … --out`` wrote.
        target: The PNG file to write.
    """
    with redirect_stdout(io.StringIO()):  # pycocotools prints its loading time
        truth = COCO(data / 'annotations' / 'instances_validation.json')
    with predictions.open('rb') as file:
        found = {sample['img_id']: sample['pred_instances'] for sample in pickle.load(file)}
    figure, axes = _grid(('scene', 'truth', f'predicted (score ≥ {_SCORE})'))
    for index, row in zip(sorted(found)[:_SCENES], axes, strict=True):
        for axis in row:
            axis.imshow(_scene(data, index))
        _draw_true(row[1], truth, index)
        _draw_found(row[2], found[index])
    _save(figure, target, CLASSES, _COLOURS[1:])


def draw_segments(data: Path, predictions: Path, target: Path) -> None:
    """Draws predicted segments beside the ground truth for the first validation scenes.

    Args:
        data: The dataset folder that ``scenes.prepare`` wrote.
        predictions: The folder that ``mim test mmseg … --out`` wrote.
        target: The PNG file to write.
    """
    figure, axes = _grid(('scene', 'truth', 'predicted'))
    for index, row in enumerate(axes):
        name = f'{index:05}.png'
        row[0].imshow(_scene(data, index))
        for axis, file in (
            (row[1], data / 'annotations' / 'validation' / name),
            (row[2], predictions / name),
        ):
            # Labels in both files start at 1, as in ADE20K.
            axis.imshow(_COLOURS[_read(file, cv2.IMREAD_GRAYSCALE) - 1])
    _save(figure, target, SEGMENTS, _COLOURS)


def draw_losses(losses: dict[str, list[tuple[int, float]]], target: Path) -> None:
    """Draws the training loss against iterations, one panel per model."""
    figure, axes = plt.subplots(1, len(losses), figsize=(5 * len(losses), 3.5), squeeze=False)
    for axis, (name, curve) in zip(axes[0], losses.items(), strict=True):
        axis.plot(*zip(*curve, strict=True))
        axis.set(title=name, xlabel='iteration', ylabel='training loss', yscale='log')
        axis.grid(which='both', alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _scene(data: Path, index: int) -> np.ndarray:
    return _read(data / 'images' / 'validation' / f'{index:05}.jpg')[..., ::-1]


def _read(file: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = cv2.imread(str(file), flags)
    if image is None:
        raise FileNotFoundError(f'{file} is not there, or no image')
    return image


def _draw_true(axis: plt.Axes, truth: COCO, index: int) -> None:
    for shape in truth.loadAnns(truth.getAnnIds(index)):
        _draw_shape(axis, shape['category_id'] - 1, shape['bbox'], truth.annToMask(shape))


def _draw_found(axis: plt.Axes, found: dict) -> None:
    found = {key: found[key] for key in ('labels', 'bboxes', 'scores', 'masks')}
    for label, (x0, y0, x1, y1), score, mask in zip(*found.values(), strict=True):
        if score >= _SCORE:
            box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
            _draw_shape(axis, int(label), box, rle.decode(mask), f'{float(score):.2f}')


def _draw_shape(
    axis: plt.Axes, label: int, box: list[float], mask: np.ndarray, text: str = ''
) -> None:
    colour = _COLOURS[label + 1]
    layer = np.zeros((*mask.shape, 4))
    layer[mask > 0] = (*colour, 0.6)
    axis.imshow(layer)
    axis.add_patch(Rectangle((box[0] - 0.5, box[1] - 0.5), *box[2:], fill=False, color=colour))
    tag = dict(boxstyle='square,pad=0.1', facecolor=colour, edgecolor='none', alpha=0.8)
    axis.text(box[0], box[1], f'{CLASSES[label]} {text}', fontsize=6, color='w', bbox=tag)


def _grid(titles: tuple[str, ...]) -> tuple[plt.Figure, np.ndarray]:
    """A figure with two scenes per row; the axes have one row per scene."""
    rows = _SCENES // 2
    figure, axes = plt.subplots(rows, 2 * len(titles), figsize=(13, 2.35 * rows))
    for axis, title in zip(axes[0], titles * 2, strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes.reshape(_SCENES, len(titles))


def _save(figure: plt.Figure, target: Path, names: Iterable[str], colours: np.ndarray) -> None:
    patches = [Patch(color=c, label=n) for n, c in zip(names, colours, strict=True)]
    figure.legend(handles=patches, loc='lower center', ncols=len(patches), frameon=False)
    figure.subplots_adjust(0.01, 0.05, 0.99, 0.95, wspace=0.03, hspace=0.08)
    figure.savefig(target, dpi=100)
    plt.close(figure)

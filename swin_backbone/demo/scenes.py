"""Generates small scenes of textured shapes from a seed, as a COCO and ADE20K dataset in one.

Shapes are saturated, the ground is dull and rotations are small, so that a short training suffices.
Only the outline tells a shape's class: the distributions of colors, textures, sizes and positions
are the same for all classes, and shapes occlude each other. Training scenes hold more and smaller
shapes than validation scenes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from ..files import move_into_place, remove

CLASSES = ('disc', 'square', 'triangle', 'ring')
# Stuff comes first. 0 in an annotation means "not labeled", as in ADE20K.
SEGMENTS = ('ground', *CLASSES)
PALETTE = ((90, 90, 90), (230, 80, 60), (70, 140, 240), (250, 190, 50), (90, 200, 110))
SPLITS = ('training', 'validation')

MANIFEST = 'manifest.json'
VERSION = 2  # increase it when the same parameters give other pixels
# Range of the number of shapes to try in a scene, without its end. Training on fuller scenes takes
# about as long and is more effective.
SHAPES = {'training': (6, 11), 'validation': (2, 6)}
RADII = {'training': (0.09, 0.26), 'validation': (0.11, 0.28)}  # relative to the image's side
_FINE = 4  # subpixels per side, for antialiasing
_LEAST_SEEN = 0.4  # least visible fraction of a shape


@dataclass(frozen=True)
class Scene:
    """A scene. Shapes are numbered from 1, from back to front.

    Attributes:
        image: (size, size, 3) uint8, BGR.
        instances: (size, size) uint8: number of the visible shape at each pixel, 0 for ground.
        labels: The shapes' classes, as indices of ``CLASSES``.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: tuple[int, ...]

    @property
    def segments(self) -> np.ndarray:
        """(size, size) uint8: 1 + the index in ``SEGMENTS`` at each pixel, as in ADE20K."""
        return np.array([1, *(label + 2 for label in self.labels)], np.uint8)[self.instances]


@dataclass(frozen=True)
class SceneSet:
    """The parameters of a dataset. Equal parameters give identical files."""

    training: int = 2000
    validation: int = 200
    size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (('training', 1), ('validation', 1), ('size', 32), ('seed', 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name} must be an integer of at least {least}, got {value!r}')

    @property
    def manifest(self) -> dict:
        return {'version': VERSION, 'scenes': asdict(self)}

    def scene(self, split: str, index: int) -> Scene:
        """Generates scene ``index`` of a split, independently of all others."""
        rng = np.random.default_rng((self.seed, SPLITS.index(split), index))
        return draw_scene(rng, self.size, SHAPES[split], RADII[split])


def draw_scene(
    rng: np.random.Generator, size: int, shapes: tuple[int, int], radii: tuple[float, float]
) -> Scene:
    """Draws shapes on a textured ground.

    Shapes that would hide too much of another one are left out.

    Args:
        rng: Random number generator.
        size: Side of the image in pixels.
        shapes: Range of the number of shapes to try, without its end.
        radii: Range of the shapes' radii relative to ``size``.
    """
    image = _texture(rng, size, rng.uniform(50, 205) + rng.normal(0, 10, 3), rng.uniform(-40, 40))
    instances = np.zeros((size, size), np.uint8)
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(*shapes)):
        label = int(rng.integers(len(CLASSES)))
        cover = _outline(rng, size, CLASSES[label], radii)
        box = cv2.boundingRect((cover > 0).astype(np.uint8))
        part = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        paint = _texture(rng, size, _vivid(rng), rng.uniform(-40, 40, 3), part)
        inside = cover >= 0.5
        seen = np.bincount(instances[~inside], minlength=len(areas) + 1)[1:]
        if not inside.any() or np.any(seen < _LEAST_SEEN * np.array(areas)):
            continue
        image[part] += cover[part][..., None] * (paint - image[part])
        labels.append(label)
        areas.append(int(inside.sum()))
        instances[inside] = len(labels)
    image += rng.normal(0, rng.uniform(2, 8), image.shape)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), instances, tuple(labels))


def _vivid(rng: np.random.Generator) -> np.ndarray:
    """A saturated color, 0 to 255."""
    while True:
        colour = rng.uniform(20, 235, 3)
        if np.ptp(colour) > 90:
            return colour


def _texture(
    rng: np.random.Generator,
    size: int,
    colour: np.ndarray,
    contrast: np.ndarray | float,
    part: tuple[slice, slice] = np.s_[:, :],
) -> np.ndarray:
    """``colour`` modulated by a ramp, waves, a checkerboard or clouds.

    Returns:
        (H, W, 3) float64: the rows and columns ``part`` of the texture, which is (size, size, 3).
    """
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    frequency = rng.uniform(6, 16)
    kind = rng.integers(4)
    if kind == 0:
        pattern = 2 * (along - along.mean())
    elif kind == 1:
        pattern = np.sin(2 * np.pi * frequency * along)
    elif kind == 2:
        pattern = np.sign(np.sin(np.pi * frequency * along) * np.sin(np.pi * frequency * across))
    else:
        pattern = cv2.resize(
            rng.uniform(-1, 1, (9, 9)), (size, size), interpolation=cv2.INTER_CUBIC
        )
    return colour + contrast * pattern[part][..., None]


def _outline(
    rng: np.random.Generator, size: int, name: str, radii: tuple[float, float]
) -> np.ndarray:
    """(size, size) float64: coverage of each pixel by a shape at a random position."""
    radius = size * rng.uniform(*radii)
    centre = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)
    tilt = rng.uniform(-0.35, 0.35)
    canvas = np.zeros((size * _FINE, size * _FINE), np.uint8)
    if name in ('disc', 'ring'):
        middle = tuple(int(c) for c in np.round(centre * _FINE))
        cv2.circle(canvas, middle, round(radius * _FINE), 255, cv2.FILLED)
        if name == 'ring':
            cv2.circle(canvas, middle, round(0.5 * radius * _FINE), 0, cv2.FILLED)
    else:
        corners, first = {'square': (4, np.pi / 4), 'triangle': (3, -np.pi / 2)}[name]
        turns = tilt + first + 2 * np.pi * np.arange(corners) / corners
        points = centre + 1.15 * radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        cv2.fillPoly(canvas, [np.round(points * _FINE).astype(np.int32)], 255)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) / 255


def prepare(root: str | Path, **parameters: int) -> Path:
    """Writes a dataset to ``root`` unless it exists.

    ``root`` has the layout of ADE20K, ``images/{training,validation}/00000.jpg`` and
    ``annotations/{training,validation}/00000.png`` (1 is ground, 2 to 5 are the classes), with
    ``annotations/instances_{training,validation}.json`` in COCO's format beside them.

    The folder is written atomically. If several processes call this function, one writes and the
    others wait.

    Args:
        root: The folder. A dataset of other parameters or of an older version is replaced.
        parameters: Fields of ``SceneSet``.

    Raises:
        FileExistsError: ``root`` exists and is not such a dataset.
        TypeError, ValueError: Invalid parameters.
    """
    root, scenes = Path(root), SceneSet(**parameters)
    if _manifest(root) == scenes.manifest:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f'.{root.name}.lock')):
        found = _manifest(root)
        if found == scenes.manifest:
            return root
        if found is None and root.exists():
            raise FileExistsError(f'{root} is there, with no {MANIFEST} of scenes: not overwritten')
        beside = root.with_name(f'.{root.name}.part')
        remove(beside)  # of a killed run
        _write(beside, scenes)
        move_into_place(beside, root, flush=False)  # thousands of files, quickly generated again
    return root


def _manifest(root: Path) -> dict | None:
    try:
        return json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def _write(folder: Path, scenes: SceneSet) -> None:
    for split in SPLITS:
        images, annotations = folder / 'images' / split, folder / 'annotations' / split
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        drawn = []
        for index in range(getattr(scenes, split)):
            scene = scenes.scene(split, index)
            _write_image(images / f'{index:05}.jpg', scene.image, cv2.IMWRITE_JPEG_QUALITY, 92)
            _write_image(annotations / f'{index:05}.png', scene.segments)
            drawn.append(_coco_objects(scene))
        coco = _coco(drawn, scenes.size)
        (folder / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))
    (folder / MANIFEST).write_text(json.dumps(scenes.manifest, indent=2) + '\n')


def _write_image(path: Path, image: np.ndarray, *options: int) -> None:
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f'could not write {path}')


def _coco(drawn: list[list[dict]], size: int) -> dict:
    """The COCO annotations of a split, from the objects of each scene."""
    images = [
        dict(id=index, file_name=f'{index:05}.jpg', width=size, height=size)
        for index in range(len(drawn))
    ]
    objects = [
        dict(id=number, image_id=index, **shape)
        for number, (index, shape) in enumerate(
            ((index, shape) for index, shapes in enumerate(drawn) for shape in shapes), start=1
        )
    ]
    categories = [
        dict(id=number, name=name, supercategory='shape') for number, name in enumerate(CLASSES, 1)
    ]
    info = dict(description='Scenes of textured shapes', version=str(VERSION))
    return dict(info=info, licenses=[], images=images, annotations=objects, categories=categories)


def _coco_objects(scene: Scene) -> list[dict]:
    """The visible part of each shape as a COCO object; boxes (x, y, w, h) in pixels."""
    objects = []
    for number, label in enumerate(scene.labels, start=1):
        mask = scene.instances == number
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        x, y = int(columns[0]), int(rows[0])
        objects.append(
            dict(
                category_id=label + 1,
                bbox=[x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
                area=int(mask.sum()),
                segmentation=dict(size=list(mask.shape), counts=run_lengths(mask)),
                iscrowd=0,
            )
        )
    return objects


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run-length encoding of a boolean (H, W) mask.

    Returns:
        Lengths of the alternating runs of 0 and 1 in column-major order, beginning with 0.
    """
    pixels = np.concatenate([[0], mask.ravel(order='F'), [2]])
    starts = np.flatnonzero(np.diff(pixels.astype(np.int8)))
    return np.diff(starts, prepend=0).tolist()

"""The scenes are the same everywhere, and their files say what is drawn."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO

from swin_backbone.demo import scenes as module
from swin_backbone.demo.scenes import CLASSES, SPLITS, Scene, SceneSet, prepare, run_lengths

FEW = dict(training=30, validation=6)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp('data') / 'shapes', **FEW)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob('*') if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def scene_of(shapes: Path, split: str, index: int) -> Scene:
    return SceneSet(**json.loads((shapes / 'manifest.json').read_text())['scenes']).scene(
        split, index
    )


def test_another_process_draws_the_same_bytes(shapes, tmp_path):
    code = (
        'import sys; from swin_backbone.demo.scenes import prepare; '
        f'prepare(sys.argv[1], **{FEW!r})'
    )
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'again')], check=True)
    assert digests(tmp_path / 'again') == digests(shapes)
    assert len(digests(shapes)) == 2 * (30 + 6) + 2 + 1


def test_scenes_differ_by_seed_split_and_index():
    first = SceneSet().scene('training', 0).image
    others = [
        SceneSet(seed=1).scene('training', 0),
        SceneSet().scene('validation', 0),
        SceneSet().scene('training', 1),
    ]
    for other in others:
        assert not np.array_equal(first, other.image)


@given(
    index=st.integers(0, 10**6),
    size=st.sampled_from([32, 128, 160]),
    split=st.sampled_from(SPLITS),
)
def test_every_shape_shows(index, size, split):
    scene = SceneSet(size=size).scene(split, index)
    assert scene.image.shape == (size, size, 3)
    assert 1 <= len(scene.labels) <= {'training': 10, 'validation': 5}[split]
    assert set(np.unique(scene.instances)) - {0} == set(range(1, len(scene.labels) + 1))


def test_held_out_scenes_stay_the_same():
    """What the models are measured on has not changed since the demo was first published."""
    digest = hashlib.sha256()
    for index in range(20):
        digest.update(SceneSet().scene('validation', index).segments.tobytes())
    assert digest.hexdigest() == '54e2ee5207f1b1c9b176d97bcdb9bd6c8482921315b5fb3827a3df8b3f596f24'


def test_colour_does_not_tell_the_class():
    """The mean colour of a class's shapes is that of all shapes, up to chance."""
    colours = [[] for _ in CLASSES]
    for index in range(400):
        scene = SceneSet().scene('training', index)
        for number, label in enumerate(scene.labels, 1):
            colours[label].append(scene.image[scene.instances == number].mean(0))
    means = np.array([np.mean(of_class, axis=0) for of_class in colours])
    spread = np.std(np.concatenate(colours), axis=0)
    errors = spread / np.sqrt([[len(of_class)] for of_class in colours])
    assert np.all(np.abs(means - np.mean(np.concatenate(colours), axis=0)) < 5 * errors)


@pytest.mark.parametrize('split', SPLITS)
def test_coco_annotations_are_what_is_drawn(shapes, split):
    coco = COCO(shapes / 'annotations' / f'instances_{split}.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == FEW[split]
    for index in coco.getImgIds():
        scene = scene_of(shapes, split, index)
        objects = coco.loadAnns(coco.getAnnIds(index))
        assert [shape['category_id'] - 1 for shape in objects] == list(scene.labels)
        for number, shape in enumerate(objects, 1):
            code = coco.annToRLE(shape)
            assert np.array_equal(rle.decode(code), scene.instances == number)
            assert shape['area'] == rle.area(code) > 0
            assert shape['bbox'] == rle.toBbox(code).tolist()
            assert shape['iscrowd'] == 0


@pytest.mark.parametrize('split', SPLITS)
def test_images_and_segments_are_what_is_drawn(shapes, split):
    for index in range(FEW[split]):
        scene = scene_of(shapes, split, index)
        image = cv2.imread(str(shapes / 'images' / split / f'{index:05}.jpg'))
        # JPEG leaves little of the noise in colours alone.
        assert np.abs(cv2.blur(image - scene.image.astype(float), (5, 5))).mean() < 3
        path = shapes / 'annotations' / split / f'{index:05}.png'
        segments = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(segments, scene.segments)
        assert np.array_equal(segments == 1, scene.instances == 0)
        for number, label in enumerate(scene.labels, 1):
            assert np.all(segments[scene.instances == number] == label + 2)


@given(st.data())
def test_run_lengths_decode_to_the_mask(data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    bits = data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=81))
    mask = np.array(bits[: shape[0] * shape[1]]).reshape(shape)
    code = dict(size=list(shape), counts=run_lengths(mask))
    assert np.array_equal(rle.decode(rle.frPyObjects(code, *shape)), mask)


def test_what_is_there_is_used(shapes):
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob('*')}
    assert prepare(shapes, **FEW) == shapes
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob('*')} == before


def test_other_parameters_replace_it(tmp_path):
    root = tmp_path / 'shapes'
    prepare(root, training=3, validation=1)
    prepare(root, training=2, validation=1, seed=5)
    assert len(list((root / 'images' / 'training').iterdir())) == 2
    assert SceneSet(training=2, validation=1, seed=5).manifest == json.loads(
        (root / 'manifest.json').read_text()
    )


def test_a_killed_run_leaves_nothing_half_done(tmp_path, monkeypatch):
    root = tmp_path / 'shapes'
    write_image, written = module._write_image, []

    def fail_late(*arguments):
        written.append(arguments)
        if len(written) == 4:
            raise KeyboardInterrupt
        write_image(*arguments)

    monkeypatch.setattr(module, '_write_image', fail_late)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, training=3, validation=1)
    assert not root.exists()
    monkeypatch.undo()
    prepare(root, training=3, validation=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ['shapes']


def test_two_at_once_draw_it_once(tmp_path, monkeypatch):
    root, write, calls = tmp_path / 'shapes', module._write, []
    monkeypatch.setattr(module, '_write', lambda *given: (calls.append(given), write(*given)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: prepare(root, training=20, validation=1), range(2)))
    assert len(calls) == 1
    assert len(list((root / 'images' / 'training').iterdir())) == 20


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'mine.jpg').write_bytes(b'dear')
    with pytest.raises(FileExistsError, match='photos'):
        prepare(tmp_path / 'photos')
    assert (tmp_path / 'photos' / 'mine.jpg').read_bytes() == b'dear'


@pytest.mark.parametrize('wrong', [dict(training=0), dict(size=8), dict(seed=-1), dict(size='big')])
def test_wrong_parameters_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        prepare(tmp_path / 'shapes', **wrong)

"""Models of configs say of an image what the frameworks' own inferencers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import randomized

from swin_backbone import ArgumentError, CheckpointError, configs_dir
from swin_backbone.demo.scenes import CLASSES, PALETTE, SEGMENTS
from swin_backbone.engine.models import Predictor, build, classes_of
from swin_backbone.engine.shipped import read

DETECTOR, SEGMENTOR = 'demo_mask_rcnn_shapes', 'demo_upernet_shapes'


def written(name, folder, **more):
    """A checkpoint of a demo model with random weights."""
    torch.manual_seed(0)
    path = folder / f'{name}.pth'
    torch.save(dict(state_dict=randomized(build(read(name), name)).state_dict(), **more), path)
    return path


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    return {name: written(name, folder) for name in (DETECTOR, SEGMENTOR)}


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 141, 3), dtype=np.uint8)


def test_a_detector(checkpoints, image):
    from mmdet.apis import inference_detector, init_detector

    ours = Predictor(DETECTOR, checkpoints[DETECTOR])
    found = ours(image)
    config = read(DETECTOR)
    theirs = init_detector(config, str(checkpoints[DETECTOR]), palette='none', device='cpu')
    wanted = inference_detector(theirs, image[..., ::-1].copy()).pred_instances
    assert ours.task == 'detection' and len(found.boxes) == len(wanted) > 0
    order = wanted.scores.argsort(descending=True, stable=True)
    np.testing.assert_array_equal(found.boxes, wanted.bboxes[order])
    np.testing.assert_array_equal(found.labels, wanted.labels[order])
    np.testing.assert_array_equal(found.masks, wanted.masks[order])
    assert (np.diff(found.scores) <= 0).all()
    assert found.masks.shape[1:] == image.shape[:2]
    assert ours.classes == list(CLASSES)
    assert ours.palette.tolist() == [list(colour) for colour in PALETTE[1:]]


def test_a_segmentor(checkpoints, image):
    from mmseg.apis import inference_model, init_model

    ours = Predictor(SEGMENTOR, checkpoints[SEGMENTOR])
    theirs = init_model(read(SEGMENTOR), device='cpu')
    theirs.load_state_dict(torch.load(checkpoints[SEGMENTOR])['state_dict'])
    wanted = inference_model(theirs, image[..., ::-1].copy()).pred_sem_seg.data[0]
    segments = ours(image).segments
    np.testing.assert_array_equal(segments, wanted)
    assert segments.shape == image.shape[:2] and segments.max() > 0
    assert ours.classes == list(SEGMENTS)


def test_features_are_the_backbones(checkpoints, image):
    ours = Predictor(SEGMENTOR, checkpoints[SEGMENTOR])
    inputs, _ = ours.prepare(image)
    with torch.no_grad():
        wanted = ours.model.backbone(inputs)
    for got, want in zip(ours.features(image), wanted, strict=True):
        assert torch.equal(got, want)


def test_classes_of_the_checkpoint_come_first(tmp_path):
    meta = dict(dataset_meta=dict(CLASSES=('a', 'b', 'c', 'd'), PALETTE=[(1, 2, 3), (4, 5, 6)]))
    ours = Predictor(DETECTOR, written(DETECTOR, tmp_path, meta=meta))
    assert ours.classes == ['a', 'b', 'c', 'd']
    assert ours.palette[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert len(np.unique(ours.palette, axis=0)) == 4
    assert ours.name(7) == 'class 7'


@pytest.mark.parametrize(
    ('name', 'count'), [('cascade_swin_t_coco', 80), ('upernet_swin_t_ade20k', 150)]
)
def test_classes_of_the_data_set(name, count):
    known = classes_of(read(name))
    assert len(known['classes']) == len(known['palette']) == count


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=['grey', 'alpha', 'float', 'empty'],
)
def test_no_image(checkpoints, image):
    with pytest.raises(ArgumentError, match=r'uint8 of shape \(H, W, 3\)'):
        Predictor(DETECTOR, checkpoints[DETECTOR])(image)


def test_what_cannot_be_had(checkpoints, tmp_path):
    with pytest.raises(CheckpointError, match='does not fit'):
        Predictor(DETECTOR, checkpoints[SEGMENTOR])
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{configs_dir() / DETECTOR}.py'\ntest_dataloader = None\n"
        'val_dataloader = None\ntest_pipeline = None\n'
    )
    with pytest.raises(ArgumentError, match='no test pipeline'):
        Predictor(config, checkpoints[DETECTOR])
    config.write_text("model = dict(type='SwinTransformer', embed_dims=24)\n")
    with pytest.raises(ArgumentError, match='no detector'):
        Predictor(config, checkpoints[DETECTOR])

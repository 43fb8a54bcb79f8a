"""Predictions agree with those of the frameworks' own inferencers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import randomized

from swin_backbone import ArgumentError, CheckpointError, configs_dir
from swin_backbone.demo.scenes import CLASSES, PALETTE, SEGMENTS
from swin_backbone.tools.configs import read
from swin_backbone.tools.predictor import Predictor, build, classes_of

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


GREY = """
_base_ = '{base}.py'
channels, load = dict(in_channels={channels}), dict(type='LoadImageFromFile', color_type={color!r})
before = dict(mean=[120.0], std=[58.0], bgr_to_rgb=False)
model = dict(backbone=channels, data_preprocessor=before)
pack = dict(type={pack!r}, meta_keys=('ori_shape', 'img_shape', 'scale_factor'))
steps = [load, dict(type='Resize', scale=(64, 64)), pack]
test_dataloader = dict(dataset=dict(pipeline=steps))
"""
PACKS = {DETECTOR: 'PackDetInputs', SEGMENTOR: 'PackSegInputs'}


def of_channels(folder, name, channels, color):
    """The config of a demo model with so many input channels, and its random weights."""
    config, base = folder / f'{channels}_{color}.py', configs_dir() / name
    config.write_text(GREY.format(base=base, channels=channels, color=color, pack=PACKS[name]))
    torch.manual_seed(0)
    model = randomized(build(read(config), config))
    torch.save(dict(state_dict=model.state_dict()), folder / 'a.pth')
    return config, folder / 'a.pth'


@pytest.mark.parametrize('name', PACKS)
def test_models_of_grey_images_get_what_their_pipeline_would_load(tmp_path, name):
    from mmengine.dataset import Compose
    from PIL import Image

    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / 'a.png')
    config, weights = of_channels(tmp_path, name, 1, 'grayscale')
    ours = Predictor(config, weights)
    inputs, _ = ours.prepare(np.stack([grey] * 3, -1))
    loaded = Compose(read(config).test_dataloader.dataset.pipeline)(
        dict(img_path=str(tmp_path / 'a.png'))
    )['inputs']
    torch.testing.assert_close(inputs[0], (loaded.float() - 120) / 58)
    assert ours(np.stack([grey] * 3, -1)) is not None


@pytest.mark.parametrize(
    ('channels', 'color', 'said'),
    [
        (1, 'color', "in_channels=1, but the test pipeline loads 3: set color_type='grayscale'"),
        (3, 'grayscale', "in_channels=3, but the test pipeline loads 1: set color_type='color'"),
        (4, 'color', "in_channels=4, but the test pipeline loads 3: .* framework's own"),
    ],
)
def test_channels_that_the_pipeline_does_not_load(tmp_path, channels, color, said):
    with pytest.raises(ArgumentError, match=f'model.backbone.{said}'):
        Predictor(*of_channels(tmp_path, SEGMENTOR, channels, color))


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

"""Images, files and annotations at the edge of what there is, and beyond."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer


@pytest.mark.parametrize('height, width', [(4, 4), (4, 4000), (4000, 4), (33, 1999)], ids=str)
def test_any_size_trains(small, height, width):
    model = SwinTransformer(**small)
    outs = model(torch.rand(1, 3, height, width))
    for out, stride in zip(outs, (4, 8, 16, 32), strict=True):
        assert out.shape[2:] == (-(-height // stride), -(-width // stride))
    sum(out.square().mean() for out in outs).backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)


@pytest.mark.parametrize('height, width', [(1, 1), (1, 4000), (4000, 1), (3, 8), (0, 8)])
def test_less_than_a_patch_is_refused(small, height, width):
    with pytest.raises(ArgumentError, match=f'{height}×{width} pixels is smaller than one patch'):
        SwinTransformer(**small)(torch.rand(1, 3, height, width))


def grayscale(file: Path) -> None:
    Image.fromarray(np.full((9, 7), 100, np.uint8)).save(file)


def sixteen_bit(file: Path) -> None:
    cv2.imwrite(str(file), np.full((9, 7, 3), 100 * 257, np.uint16))


def cmyk(file: Path) -> None:
    Image.new('CMYK', (7, 9), (155, 155, 155, 0)).save(file, 'JPEG')


def with_alpha(file: Path) -> None:
    Image.new('RGBA', (7, 9), (100, 100, 100, 128)).save(file)


@pytest.mark.parametrize(
    'write, suffix',
    [
        (grayscale, 'png'),
        (grayscale, 'jpg'),
        (sixteen_bit, 'png'),
        (cmyk, 'jpg'),
        (with_alpha, 'png'),
    ],
)
def test_unusual_files_become_three_channels_of_bytes(tmp_path, write, suffix):
    file = tmp_path / f'image.{suffix}'
    write(file)
    image = LoadImageFromFile()(dict(img_path=str(file)))['img']
    assert image.shape == (9, 7, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - 100).max() <= 3


def test_files_that_are_no_images_are_named(tmp_path):
    whole = tmp_path / 'whole.png'
    grayscale(whole)
    for name, content in (('text.jpg', b'not an image'), ('cut.png', whole.read_bytes()[:20])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AssertionError, match=name):
            LoadImageFromFile()(dict(img_path=str(tmp_path / name)))


@pytest.fixture(scope='module')
def detector() -> torch.nn.Module:
    init_default_scope('mmdet')
    settings = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(
            type='SwinTransformer',
            embed_dims=8,
            depths=(1, 1),
            num_heads=(1, 2),
            strides=(4, 2),
            out_indices=(1,),
        ),
        neck=dict(type='FPN', in_channels=[16], out_channels=8, num_outs=1),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=1,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=dict(type='AnchorGenerator', scales=[3], ratios=[1.0], strides=[8]),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5)),
    )
    return MODELS.build(settings)


@pytest.mark.parametrize('boxes', [[], [[2.0, 2.0, 30.0, 28.0]]], ids=['none', 'one'])
def test_one_class_with_and_without_annotations(detector, boxes):
    instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    sample = DetDataSample(gt_instances=instances, metainfo=dict(img_shape=(32, 32)))
    data = detector.data_preprocessor(
        dict(inputs=[torch.rand(3, 32, 32) * 255], data_samples=[sample]), True
    )
    losses = detector(**data, mode='loss')
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


def test_a_misspelt_option_is_named():
    init_default_scope('mmdet')
    with pytest.raises(TypeError, match='drop_path_rat'):
        MODELS.build(dict(type='SwinTransformer', drop_path_rat=0.1))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, small):
    file = tmp_path / 'resnet.pth'
    weights = {f'layer{i}.0.conv1.weight': torch.rand(4, 4, 3, 3) for i in range(1, 5)}
    torch.save(dict(state_dict=weights), file)
    model = SwinTransformer(**small, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    with pytest.raises(CheckpointError, match=r'resnet\.pth'):
        model.init_weights()

"""Labels beyond a head's classes, and objects without masks, in a few samples."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from own_data import coco, dataset, label_maps, segmented

import swin_backbone  # noqa: F401
from swin_backbone.engine.check_annotations import (
    beyond,
    label_problems,
    labels_of,
    mask_problems,
    read_label_map,
    spread,
    transform_with,
)
from swin_backbone.engine.class_counts import Count

HEAD = Count('model.decode_head.num_classes', 2, ignored=255)


def built(settings: dict, scope: str):
    init_default_scope(scope)
    __import__(f'{scope}.datasets')
    return DATASETS.build(settings)


def problems(settings: dict, *heads: Count, scope: str = 'mmseg', maps: int = 3) -> list[str]:
    return list(label_problems(built(settings, scope), 'd', heads or [HEAD], maps))


@pytest.mark.parametrize(
    ('number', 'most', 'expected'),
    [(1, 5, [0]), (3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (100, 2, [0, 99]), (5, 1, [0])],
)
def test_samples_are_spread(number, most, expected):
    assert spread(number, most) == expected


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_labels_are_counted(dtype):
    labels = np.array([[0, 7, 255], [7, 7, 0]], dtype)
    assert labels_of(labels) == {0: 2, 7: 3, 255: 1}
    if dtype is np.int64:
        assert labels_of(labels - 1)[-1] == 2


@pytest.mark.parametrize(
    ('count', 'outside'),
    [
        (Count('o', 2, ignored=255), [2, 200]),
        (Count('o', 3, ignored=255), [200]),
        (Count('o', 3, ignored=200), [255]),
        (Count('o', 1, ignored=255, one_channel=True), [2, 200]),  # of two classes
        (Count('o', 256, ignored=255), []),
    ],
)
def test_labels_beyond_a_head(count, outside):
    assert beyond(count, [0, 1, 2, 200, 255]) == outside


def test_labels_that_a_head_has_room_for(tmp_path):
    assert problems(segmented(label_maps(tmp_path))) == []
    assert problems(segmented(label_maps(tmp_path, inside=255))) == []  # it may be meant so
    assert problems(segmented(tmp_path), Count('model.bbox_head.num_classes', 1)) == []


def test_labels_that_it_has_not(tmp_path):
    (text,) = problems(segmented(label_maps(tmp_path, inside=7)))
    assert text == (
        f'd: pixels of {tmp_path}/labels/0.png have the label 7, and model.decode_head.num_classes '
        '= 2 is for 0 to 1, and 255 for ignored pixels'
    )
    # As they are read, 0 becomes 255, and 1 and 2 become 0 and 1.
    label_maps(tmp_path, inside=2, outside=1)
    assert problems(segmented(tmp_path)) and not problems(
        segmented(tmp_path, reduce_zero_label=True)
    )


def test_two_opinions_of_label_0(tmp_path):
    """The recipes for ADE20K have it in the pipeline, and a data set of one's own has not."""
    settings = segmented(label_maps(tmp_path))
    settings['pipeline'][1]['reduce_zero_label'] = True
    (text,) = problems(settings)
    assert text.startswith('d.reduce_zero_label is False, and LoadAnnotations of its pipeline has')
    assert problems(dict(settings, reduce_zero_label=True)) == []
    del settings['pipeline'][1]['reduce_zero_label']
    assert problems(dict(settings, reduce_zero_label=True)) == []


def test_a_map_that_is_not_there_is_the_loaders_matter(tmp_path):
    label_maps(tmp_path)
    (tmp_path / 'labels/0.png').unlink()
    assert problems(segmented(tmp_path)) == []


def test_labels_of_a_semantic_branch(tmp_path):
    """HTC's: its maps have labels of their own."""
    coco(tmp_path)
    (tmp_path / 'stuff').mkdir()
    for i in range(4):
        labels = np.full((48, 48), 182 if i else 3, np.uint8)
        cv2.imwrite(str(tmp_path / f'stuff/{i}.png'), labels)
    settings = dataset(tmp_path)
    settings['data_prefix'] = dict(img='images/', seg='stuff/')
    settings['pipeline'][1:2] = [dict(type='LoadAnnotations', with_bbox=True, with_seg=True)]
    right, wrong = (Count('h.num_classes', n, 'labels', ignored=255) for n in (183, 182))
    assert problems(settings, right, scope='mmdet') == []
    (text,) = problems(settings, wrong, scope='mmdet')
    assert 'label 182, and h.num_classes = 182 is for 0 to 181' in text


def test_a_few_maps_take_no_time(tmp_path):
    """Of Cityscapes' size."""
    loaded = built(segmented(label_maps(tmp_path, size=(1024, 2048))), 'mmseg')
    start = time.process_time()
    assert list(label_problems(loaded, 'd', [HEAD], 3)) == []
    assert time.process_time() - start < 0.3  # a third of it where nothing else runs


def test_masks(tmp_path):
    coco(tmp_path, masks=False)
    settings = dataset(tmp_path)
    settings['pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    ]
    (text,) = mask_problems(built(settings, 'mmdet'), 'd', 20)
    assert text.startswith(f'd: objects of {tmp_path}/images/0.png have no segmentation, which')
    coco(tmp_path)
    assert list(mask_problems(built(settings, 'mmdet'), 'd', 20)) == []


def test_what_a_transform_of_one_s_own_may_make_is_not_asked_for(tmp_path):
    coco(tmp_path, masks=False)
    mask = dict(type='LoadAnnotations', with_mask=True)
    steps = [dict(type='Resize', scale=(8, 8)), mask]
    plain = built(dataset(tmp_path, pipeline=steps), 'mmdet')
    assert transform_with(plain, 'mask').with_mask and list(mask_problems(plain, 'd', 20))
    own = built(dataset(tmp_path, pipeline=[lambda sample: sample, *steps]), 'mmdet')
    assert transform_with(own, 'mask') is None and list(mask_problems(own, 'd', 20)) == []


def test_a_map_is_read_as_for_training(tmp_path):
    maps = built(segmented(label_maps(tmp_path, inside=2), reduce_zero_label=True), 'mmseg')
    labels = read_label_map(transform_with(maps, 'seg'), maps.get_data_info(0))
    assert labels.shape == (40, 60) and set(np.unique(labels)) == {1, 255}
    assert Path(maps.get_data_info(0)['seg_map_path']).name == '0.png'


def test_masks_of_panoptic_images_are_not_in_the_annotations(tmp_path):
    """Their objects have none, and their pixels are ids of segments, not labels."""
    coco(tmp_path, masks=False)
    panoptic = dict(type='LoadPanopticAnnotations', with_mask=True, with_seg=True)
    loaded = built(dataset(tmp_path, pipeline=[panoptic]), 'mmdet')
    assert transform_with(loaded, 'mask') is transform_with(loaded, 'seg') is None
    assert list(mask_problems(loaded, 'd', 20)) == []
    assert list(label_problems(loaded, 'd', [HEAD], 3)) == []

"""The pipelines, run on an image; and where the data is looked for."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from recipes import DETECTORS, HTC, RECIPES, SEGMENTORS, load, path

# Configs and models are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('configs')

HEIGHT, WIDTH = 480, 640
SIDES = {480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800}


@pytest.fixture(scope='module')
def sample(tmp_path_factory) -> dict:
    """What a dataset hands to a pipeline: an image, an object in it, a map of labels 0 and 1."""
    folder = tmp_path_factory.mktemp('image')
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[100:400, 100:500] = 1
    cv2.imwrite(str(folder / 'image.png'), image)
    cv2.imwrite(str(folder / 'labels.png'), labels)
    corners = [100, 100, 500, 100, 500, 400, 100, 400]
    return dict(
        img_path=str(folder / 'image.png'),
        img_id=1,
        seg_map_path=str(folder / 'labels.png'),
        seg_fields=[],
        reduce_zero_label=True,
        label_map=None,
        height=HEIGHT,
        width=WIDTH,
        instances=[dict(bbox=[100, 100, 500, 400], bbox_label=0, mask=[corners], ignore_flag=0)],
    )


def run(config, loader: str, sample: dict) -> tuple[tuple[int, ...], object]:
    """The size of a pipeline's image (height, width), and its annotations."""
    result = Compose(config[loader].dataset.pipeline)(dict(sample))
    return tuple(result['inputs'].shape[1:]), result['data_samples']


@pytest.mark.parametrize('name', ['mask_rcnn_swin_t_coco', 'cascade_swin_t_1x_coco'])
def test_detectors_train_at_many_scales(name, sample):
    np.random.seed(0)
    config, sides, cropped = load(name), set(), 0
    for _ in range(100):
        (height, width), annotations = run(config, 'train_dataloader', sample)
        assert max(height, width) <= 1333
        sides.add(min(height, width))
        cropped += abs(height / width - HEIGHT / WIDTH) > 0.01
        masks = annotations.gt_instances.masks
        assert (masks.height, masks.width) == (height, width)
    assert sides == SIDES
    assert 25 < cropped < 75  # half of the images


def test_htc_trains_at_any_scale(sample, monkeypatch):
    monkeypatch.setenv('SWIN_INSTABOOST', 'off')
    np.random.seed(0)
    config, sides = load(path('htcpp_swin_b_coco')), set()
    for _ in range(100):
        (height, width), annotations = run(config, 'train_dataloader', sample)
        assert max(height, width) <= 1600
        sides.add(min(height, width))
        assert annotations.gt_sem_seg.sem_seg.shape[1:] == (height, width)
    # The longer side's bound is met at 1200 already by images of 4 : 3.
    assert min(sides) < 420 and max(sides) == 1200 and len(sides) > 60


@pytest.mark.skipif(find_spec('instaboostfast') is None, reason='InstaBoost is not installed')
def test_instaboost_moves_what_it_finds(sample):
    np.random.seed(0)
    config = load('htcpp_swin_l_nosem_coco', train_dataloader__dataset__pipeline__1__aug_ratio=1.0)
    steps = config.train_dataloader.dataset.pipeline
    assert [step.type for step in steps[:3]] == [
        'LoadImageFromFile',
        'InstaBoost',
        'LoadAnnotations',
    ]
    moved = Compose(steps[:3])(deepcopy(sample))
    before = sample['instances'][0]['bbox']
    assert moved['gt_bboxes'].tensor.shape == (1, 4)
    assert moved['gt_bboxes'].tensor[0].tolist() != before
    area = moved['gt_masks'].areas[0] / (400 * 300)
    assert 0.5 < area < 1.5


@pytest.mark.parametrize(
    'name, scales, sides',
    [
        ('cascade_swin_l_coco', 3, [640, 800, 960]),
        # Images of 4 : 3 meet the longer side's bound in the last two.
        ('htcpp_swin_l_coco', 5, [600, 800, 1000, 1200]),
    ],
)
def test_tta_sees_every_scale_both_ways(name, scales, sides, sample):
    views = Compose(load(name).tta_pipeline)(dict(sample))
    samples = views['data_samples']
    assert not samples[0].flip  # the view in whose coordinates the others are merged
    assert {(s.img_shape, s.flip) for s in samples} == {
        (tuple(v.shape[1:]), flip) for v in views['inputs'] for flip in (False, True)
    }
    assert len(samples) == 2 * scales
    assert sorted({min(s.img_shape) for s in samples}) == sides


def test_mstest_writes_the_submission():
    config = load('htcpp_swin_l_mstest_coco')
    assert config.test_evaluator.format_only and 'test-dev2017' in config.test_evaluator.ann_file
    assert config.test_dataloader.dataset.pipeline == config.tta_pipeline
    assert config.test_dataloader.dataset.data_prefix.img == 'test2017/'


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_share_data_and_test_at_800(name, sample):
    config, family = load(name), load('mask_rcnn_swin_t_coco')
    if name in HTC:
        family.train_dataloader = load('htcpp_swin_b_coco').train_dataloader
    for part in ('train_dataloader', 'test_dataloader', 'test_evaluator', 'val_evaluator'):
        assert config[part] == family[part]
    assert run(config, 'test_dataloader', sample)[0] == (800, 1067)
    assert config.test_evaluator.metric == ['bbox', 'segm']
    assert config.model.data_preprocessor.pad_size_divisor == 32


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentors_crop_and_test(name, sample):
    np.random.seed(0)
    config, side = load(name), RECIPES[name].size
    assert tuple(config.model.data_preprocessor.size) == (side, side)
    sizes = [run(config, 'train_dataloader', sample)[0] for _ in range(20)]
    assert max(sizes) == (side, side)
    assert min(map(min, sizes)) < side  # which the model's preprocessor pads
    size, annotations = run(config, 'test_dataloader', sample)
    assert size == (side, round(side * WIDTH / HEIGHT))
    # The score is taken at the image's own size; label 0 is 'other', and ignored.
    labels = annotations.gt_sem_seg.data
    assert labels.shape[1:] == (HEIGHT, WIDTH) and set(labels.unique().tolist()) == {0, 255}
    assert config.test_evaluator.iou_metrics == ['mIoU']


@pytest.mark.parametrize(
    'name', ['cascade_swin_l_coco', 'upernet_swin_t_ade20k', 'upernet_swin_l_ade20k']
)
def test_environment_says_where_the_data_is(name, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', '/elsewhere')
    monkeypatch.setenv('ADE20K_ROOT', '/elsewhere')
    config = Config.fromfile(path(name))
    for phase in ('train', 'val', 'test'):
        assert config[f'{phase}_dataloader'].dataset.data_root == '/elsewhere'
    if name in DETECTORS:
        for phase in ('val', 'test'):
            file = Path(config[f'{phase}_evaluator'].ann_file)
            assert file == Path('/elsewhere/annotations/instances_val2017.json')

"""Multi-scale and flip testing: one view is plain testing; flips are undone; views are averaged."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F

from swin_backbone import ArgumentError, configs_dir
from swin_backbone.engine.tta import RoITTAModel, from_frame, suppress, to_frame

ORIGINAL = (96, 112)
SEMANTIC = ('semantic_fusion', 'semantic_head', 'semantic_roi_extractor')
DETECTORS = ('mask_rcnn', 'cascade', 'htc', 'htc_without_semantic')


def config(name: str) -> Config:
    """The demo's detectors, and what lies between them."""
    file = 'demo_mask_rcnn_shapes.py' if name == 'mask_rcnn' else 'demo_htcpp_shapes.py'
    model = deepcopy(Config.fromfile(configs_dir() / file).model)
    head = model.roi_head
    if name == 'htc_without_semantic':
        head.update(semantic_head=None, semantic_roi_extractor=None)
    if name == 'cascade':
        model.type, head.type = 'CascadeRCNN', 'CascadeRoIHead'
        for key in ('interleaved', 'mask_info_flow', *SEMANTIC):
            del head[key]
        for mask_head in head.mask_head:
            mask_head.type = 'FCNMaskHead'
            del mask_head['with_conv_res']
    # Untrained as it is, it must find something.
    model.test_cfg.rcnn.update(score_thr=0.1, nms=dict(type='soft_nms', iou_threshold=0.5))
    return model


def detector(name: str) -> nn.Module:
    init_default_scope('mmdet')
    built = MODELS.build(config(name)).eval()
    built.init_weights()
    with torch.no_grad():  # as trained: sure of something, and of another thing elsewhere
        for key, parameter in built.named_parameters():
            if any(last in key for last in ('fc_cls', 'conv_logits', 'rpn_cls', 'rpn_reg')):
                parameter.mul_(20)
    return built


IMAGE = (255 * torch.rand(3, *ORIGINAL, generator=torch.Generator().manual_seed(1))).round()


def view(image: torch.Tensor, scale: float = 1.25, flip: str | None = None) -> dict:
    """A batch of one image, as the pipeline makes it."""
    size = [round(side * scale) for side in ORIGINAL]
    inputs = F.interpolate(image[None], size=size, mode='bilinear', antialias=True)[0]
    if flip:
        inputs = inputs.flip(dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))[flip])
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            ori_shape=ORIGINAL,
            img_shape=tuple(size),
            scale_factor=(size[1] / ORIGINAL[1], size[0] / ORIGINAL[0]),
            flip=flip is not None,
            flip_direction=flip,
        )
    )
    return dict(inputs=[inputs], data_samples=[sample])


def on_views(model: RoITTAModel, *views: dict):
    batches = {key: [one[key] for one in views] for key in ('inputs', 'data_samples')}
    return model.test_step(batches)[0].pred_instances


@pytest.mark.parametrize('name', DETECTORS)
def test_one_view_is_plain_testing(name):
    built = detector(name)
    with torch.no_grad():
        plain = built.test_step(view(IMAGE))[0].pred_instances
    ours = on_views(RoITTAModel(built), view(IMAGE))
    assert len(plain) > 3 and plain.masks.any()
    for key in ('bboxes', 'scores', 'labels', 'masks'):
        assert torch.equal(ours[key], plain[key]), key


def test_one_view_is_plain_testing_without_masks():
    built = detector('mask_rcnn')
    with torch.no_grad():
        with_masks = on_views(RoITTAModel(built), view(IMAGE))
    model = config('mask_rcnn')
    model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    boxes_alone = MODELS.build(model).eval()
    boxes_alone.load_state_dict(built.state_dict(), strict=False)
    ours = on_views(RoITTAModel(boxes_alone), view(IMAGE))
    assert 'masks' not in ours
    torch.testing.assert_close(ours.bboxes, with_masks.bboxes)
    assert torch.equal(ours.labels, with_masks.labels)


@pytest.mark.parametrize(
    'name, flip', [('htc', 'horizontal'), ('htc', 'vertical'), ('mask_rcnn', 'diagonal')]
)
def test_flips_are_undone(name, flip):
    """An image and its mirror image have the same two views: found must be mirror images, too."""
    model = RoITTAModel(detector(name))
    axes = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))[flip]
    found = on_views(model, view(IMAGE), view(IMAGE, flip=flip))
    mirror = IMAGE.flip(axes)
    mirrored = on_views(model, view(mirror), view(mirror, flip=flip))
    assert len(found) > 3
    assert torch.equal(found.labels, mirrored.labels)
    torch.testing.assert_close(found.scores, mirrored.scores, rtol=1e-4, atol=1e-4)
    meta = dict(img_shape=ORIGINAL, scale_factor=(1, 1), flip=True, flip_direction=flip)
    boxes = to_frame(found.bboxes, meta, meta)
    torch.testing.assert_close(boxes, mirrored.bboxes, rtol=1e-3, atol=1e-2)
    assert (found.masks.flip(axes) == mirrored.masks).float().mean() > 0.999


def test_scales_are_merged_in_the_images_own_coordinates():
    model = RoITTAModel(detector('htc'))
    views = [view(IMAGE, scale, flip) for scale in (1, 1.5) for flip in (None, 'horizontal')]
    found = on_views(model, *views)
    assert len(found) > 3 and found.masks.shape == (len(found), *ORIGINAL)
    assert found.bboxes.min() >= 0
    assert (found.bboxes.amax(0) <= torch.tensor([112, 96, 112, 96]) + 1e-3).all()
    # Which of the views comes first sets the coordinates of the merging, and nothing else.
    other = on_views(model, *views[::-1][1:], views[-1])
    torch.testing.assert_close(found.scores, other.scores, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.bboxes, other.bboxes, rtol=1e-3, atol=5e-2)


def test_views_are_averaged():
    model = RoITTAModel(detector('cascade'))
    two, three = (on_views(model, *[view(IMAGE) for _ in range(count)]) for count in (2, 3))
    torch.testing.assert_close(two.scores, three.scores)
    torch.testing.assert_close(two.bboxes, three.bboxes)
    assert torch.equal(two.masks, three.masks)


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical', 'diagonal'])
def test_coordinates_go_there_and_back(flip):
    frame, meta = (
        view(IMAGE, scale, f)['data_samples'][0].metainfo for scale, f in ((1, None), (1.5, flip))
    )
    boxes = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    there = from_frame(boxes, meta, frame)
    x = [15, 45] if flip in (None, 'vertical') else [168 - 45, 168 - 15]
    y = [30, 75] if flip in (None, 'horizontal') else [144 - 75, 144 - 30]
    assert there.tolist() == [[x[0], y[0], x[1], y[1]]]
    torch.testing.assert_close(to_frame(there, meta, frame), boxes)
    several = torch.cat([there, there], dim=1)  # of two classes
    torch.testing.assert_close(to_frame(several, meta, frame), torch.cat([boxes, boxes], dim=1))


@pytest.mark.parametrize('nms', [dict(type='nms', iou_threshold=0.5), dict(type='soft_nms')])
@pytest.mark.parametrize('agnostic', [True, False])
def test_suppression_is_mmdets(nms, agnostic):
    corner = 50 * torch.rand(40, 1 if agnostic else 3, 2)
    boxes = torch.cat([corner, corner + 5 + 40 * torch.rand_like(corner)], dim=2).flatten(1)
    scores = torch.randn(40, 4).softmax(1)
    cfg = dict(score_thr=0.3, nms=nms, max_per_img=20)
    found = suppress(boxes, scores, cfg)
    theirs, labels = multiclass_nms(boxes, scores, 0.3, dict(nms), 20)
    assert 0 < len(found) <= 20
    assert torch.equal(torch.cat([found.bboxes, found.scores[:, None]], 1), theirs)
    assert torch.equal(found.labels, labels)


def test_nothing_found_is_no_error():
    model = RoITTAModel(detector('htc'))
    model.module.roi_head.test_cfg.score_thr = 1.0
    found = on_views(model, view(IMAGE), view(IMAGE, 1.5, 'horizontal'))
    assert len(found) == 0 and found.masks.shape == (0, *ORIGINAL)


def test_other_detectors_are_refused():
    init_default_scope('mmdet')
    built = detector('mask_rcnn')
    with pytest.raises(ArgumentError, match='leave out --tta'):
        RoITTAModel(RoITTAModel(built))
    del built.roi_head
    with pytest.raises(ArgumentError, match=r'MaskRCNN has no RPN and RoI heads.*DetTTAModel'):
        RoITTAModel(built)

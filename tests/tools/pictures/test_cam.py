"""Class activation maps follow the formula, for the scores of the framework's own heads."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import IMAGE, classifier_subject
from peers import APART
from small import SMALL, randomized
from torch import nn

from swin_backbone import ArgumentError
from swin_backbone.patches import scores_keep_gradients
from swin_backbone.tools.configs import read
from swin_backbone.tools.pictures.cam import METHODS, explain, grad_cam
from swin_backbone.tools.pictures.show import look
from swin_backbone.tools.pictures.subject import Subject, load_subject
from swin_backbone.tools.predictor import build

DETECTOR, SEGMENTOR = 'demo_mask_rcnn_shapes', 'demo_upernet_shapes'


def subject_of(config, folder, change=lambda model: model) -> Subject:
    torch.manual_seed(0)
    path = folder / 'whole.pth'
    torch.save(dict(state_dict=change(build(read(config), config)).state_dict()), path)
    return load_subject(config, path)


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> Subject:
    return subject_of(DETECTOR, tmp_path_factory.mktemp('detector'))


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory) -> Subject:
    return subject_of(SEGMENTOR, tmp_path_factory.mktemp('segmentor'))


@pytest.fixture
def classifier() -> Subject:
    return classifier_subject()


def formula(feature, gradient):
    """Equations 1 and 2, channel by channel."""
    heat = np.zeros(feature.shape[2:])
    for values, slopes in zip(feature[0].numpy(), gradient[0].numpy(), strict=True):
        heat += slopes.sum() / slopes.size * values
    return np.maximum(heat, 0)


def assert_heat(found, feature, gradient):
    wanted = formula(feature.detach().double(), gradient.double())
    assert found.heat.shape == wanted.shape and wanted.max() > 0
    np.testing.assert_allclose(found.heat, wanted, atol=1e-4 * wanted.max())


def test_the_formula():
    feature, gradient = (torch.randn(1, 6, 3, 5, dtype=torch.float64) for _ in range(2))
    np.testing.assert_allclose(grad_cam(feature, gradient), formula(feature, gradient))


# --- classifiers ----------------------------------------------------------------------------------


def test_of_a_linear_classifier_it_is_the_weighted_map(classifier):
    """Zhou et al.'s map, which Grad-CAM generalises."""
    model = classifier.predictor.model
    with torch.no_grad():
        feature = model.backbone(classifier.predictor.inputs)[-1]
        scores = model(classifier.predictor.inputs, None, 'tensor').softmax(1)[0]
    for label, name in enumerate(classifier.predictor.classes):
        found = explain(IMAGE, classifier, name)
        wanted = (model.head.weight[label].detach()[:, None, None] * feature[0]).sum(0).relu()
        wanted = wanted / wanted.numel()  # which pooling divides by
        np.testing.assert_allclose(found.heat, wanted, atol=1e-5)
        assert found.stage == 3 and found.target.box is None
        assert found.target.score == pytest.approx(scores[label].item(), abs=1e-6)


def test_targets_are_named_or_counted_from_the_best(classifier):
    scores = explain(IMAGE, classifier, '0').target.score, explain(IMAGE, classifier, '2')
    assert scores[0] > scores[1].target.score
    assert explain(IMAGE, classifier, 'dog').target.name == 'Dog'
    for wanted, message in [('Dogs', "did you mean 'Dog'"), ('3', 'one of the 3 classes, from 0')]:
        with pytest.raises(ArgumentError, match=message):
            explain(IMAGE, classifier, wanted)


def test_stages_whose_maps_no_head_takes(classifier):
    with pytest.raises(ArgumentError, match=r'stage=0 must .* heads take: 2, 3'):
        explain(IMAGE, classifier, '0', stage=0)
    with pytest.raises(ArgumentError, match='does not follow from the map of stage 2'):
        explain(IMAGE, classifier, '0', stage=2)  # the head takes the last alone
    with pytest.raises(ArgumentError, match="method='cam' must be one of grad-cam,"):
        explain(IMAGE, classifier, '0', method='cam')


def test_the_model_is_left_as_it_was(classifier):
    model, before = classifier.predictor.model, classifier.predictor.inputs
    with torch.no_grad():
        wanted = model.backbone(before)
        explain(IMAGE, classifier, '0')
        for mine, other in zip(model.backbone(before), wanted, strict=True):
            assert torch.equal(mine, other)
    assert 'forward' not in model.backbone.__dict__
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# --- segmentors -----------------------------------------------------------------------------------


@pytest.mark.parametrize('stage', [None, 0])
def test_of_a_segmentors_class(segmentor, stage):
    predictor = segmentor.predictor
    found = explain(IMAGE, segmentor, '0', stage=stage)
    label = predictor.classes.index(found.target.name)
    inputs, samples = predictor.prepare(IMAGE)
    maps = [m.detach().requires_grad_() for m in predictor.model.backbone(inputs)]
    logits = predictor.model.decode_head(maps)
    size = samples[0].img_shape[:2]
    logits = nn.functional.interpolate(logits, size, mode='bilinear', align_corners=False)[0]
    there = logits.argmax(0) == label
    assert found.target.score == pytest.approx(there.double().mean().item(), abs=1e-3)
    feature = maps[-1 if stage is None else stage]
    (gradient,) = torch.autograd.grad(logits[label][there].mean(), feature)
    assert_heat(found, feature, gradient)


def test_of_a_class_that_no_pixel_has(segmentor):
    there = explain(IMAGE, segmentor, '0').target.name
    shares = {name: explain(IMAGE, segmentor, name) for name in segmentor.predictor.classes}
    absent = [found for found in shares.values() if found.target.score == 0]
    assert absent and all(found.heat.shape == (6, 9) for found in absent)
    number = len(shares) - len(absent)
    assert shares[there].target.score == max(found.target.score for found in shares.values())
    with pytest.raises(ArgumentError, match=f'one of the {number} classes'):
        explain(IMAGE, segmentor, str(number))


# --- detectors ------------------------------------------------------------------------------------


def test_of_a_detectors_box(detector):
    predictor = detector.predictor
    seen = predictor(IMAGE)
    for wanted, i in (('0', 0), (predictor.name(int(seen.labels[3])), None), ('2', 2)):
        found = explain(IMAGE, detector, wanted)
        if i is None:  # the best of its class
            i = list(seen.labels).index(seen.labels[3])
        assert found.target.name == predictor.name(int(seen.labels[i]))
        assert found.target.score == pytest.approx(float(seen.scores[i]), abs=1e-6)
        np.testing.assert_allclose(found.target.box, seen.boxes[i], atol=1e-3)
    # By the parts of the detector.
    model, (inputs, samples) = predictor.model, predictor.prepare(IMAGE)
    maps = [m.detach().requires_grad_() for m in model.backbone(inputs)]
    features = model.neck(maps)
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    result = model.roi_head.predict(features, proposals, samples, rescale=True)[0]
    score = result.scores.sort(descending=True, stable=True).values[2]
    (gradient,) = torch.autograd.grad(score, maps[-1])
    assert_heat(found, maps[-1], gradient)


@pytest.fixture(scope='module')
def one_stage(tmp_path_factory) -> Subject:
    """A small RetinaNet, whose head detaches scores before ranking them."""
    pytest.importorskip('mmdet')
    folder = tmp_path_factory.mktemp('one_stage')
    config = folder / 'config.py'
    backbone = {**SMALL, 'depths': (1, 1, 1, 1)}
    config.write_text(
        f'_base_ = {str(read("retinanet_swin_t_coco").filename)!r}\n'
        f'model = dict(backbone=dict(arch=None, init_cfg=None, **{backbone!r}),\n'
        '    neck=dict(in_channels=[48, 96, 192], out_channels=16),\n'
        '    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),\n'
        '    test_cfg=dict(score_thr=0.0))\n'
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'),\n"
        "    dict(type='Resize', scale=(96, 96), keep_ratio=True), dict(type='PackDetInputs',\n"
        "    meta_keys=('ori_shape', 'img_shape', 'scale_factor'))]))\n"
    )
    return subject_of(str(config), folder, randomized)


def test_of_a_one_stage_detectors_box(one_stage):
    boxes = (explain(IMAGE, one_stage, str(i)) for i in range(9))
    found = next(found for found in boxes if found.heat.any())
    model, (inputs, _) = one_stage.predictor.model, one_stage.predictor.prepare(IMAGE)
    maps = [m.detach().requires_grad_() for m in model.backbone(inputs)]
    scores, _ = model.bbox_head(model.neck(maps))
    scores = torch.cat([level.flatten() for level in scores]).sigmoid()
    score = scores[(scores - found.target.score).abs().argmin()]
    assert score.item() == pytest.approx(found.target.score, abs=1e-6)
    (gradient,) = torch.autograd.grad(score, maps[-1])
    assert_heat(found, maps[-1], gradient)


def test_soft_nms_keeps_the_gradient():
    """Its scores are those of the boxes, multiplied by constants."""
    nms = pytest.importorskip('mmcv.ops.nms')
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 7], [30, 30, 40, 40]])
    scores = torch.tensor([0.9, 0.8, 0.3], requires_grad=True)
    before = nms.soft_nms
    wanted, kept = before(boxes, scores.detach(), 0.5)
    with scores_keep_gradients(()):
        found, again = nms.soft_nms(boxes, scores, 0.5)
    assert nms.soft_nms is before and torch.equal(kept, again)
    torch.testing.assert_close(found, wanted)
    place = kept.tolist().index(1)
    (gradient,) = torch.autograd.grad(found[place, 4], scores)
    factor = (wanted[place, 4] / 0.8).item()
    assert factor < 0.5 and gradient.tolist() == pytest.approx([0, factor, 0])


def test_what_a_detector_has_no_box_of(detector):
    names = {explain(IMAGE, detector, str(i)).target.name for i in range(3)}
    wanted = [name for name in detector.predictor.classes if name not in names]
    classes = [detector.predictor.name(int(i)) for i in detector.predictor(IMAGE).labels]
    for name in wanted:
        if name not in classes:
            with pytest.raises(ArgumentError, match=f'there are no boxes of {name!r}'):
                explain(IMAGE, detector, name)
    with pytest.raises(ArgumentError, match='must be the name of a class, or the number of one of'):
        explain(IMAGE, detector, '1000')


# --- pictures -------------------------------------------------------------------------------------


def test_the_picture(detector, monkeypatch):
    monkeypatch.setattr('swin_backbone.tools.pictures.show.DOTS_PER_INCH', 40)
    pictures = look(IMAGE, detector, 'features', cam='1')
    assert list(pictures.png) == ['features', 'cam']
    found = explain(IMAGE, detector, '1')
    facts = pictures.facts['cam']
    assert facts['class'] == found.target.name and facts['box'] == list(found.target.box)
    assert facts['score'] == found.target.score
    assert facts['grid'] == [4, 4] or facts['grid'] == list(found.heat.shape)
    assert found.heat[tuple(facts['hottest'])] == found.heat.max()
    alone = look(IMAGE, detector, 'cam')
    assert list(alone.png) == ['cam'] and alone.seen is None
    assert 'cam' not in look(IMAGE, detector, 'all').png


def test_without_heads(classifier):
    subject = Subject('small', 'mine.pth', classifier.backbone, None, 'there is a backbone alone')
    for options in (dict(what='cam'), dict(what='all', cam='0')):
        with pytest.raises(ArgumentError, match='no cam to show: there is a backbone alone'):
            look(IMAGE, subject, **options)
    with pytest.raises(ArgumentError, match='no heads whose score'):
        explain(IMAGE, subject)


# --- the package grad-cam -------------------------------------------------------------------------


def test_other_methods_without_the_package(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    with pytest.raises(ArgumentError, match=r"pip install 'swin_backbone\[cam\]'"):
        explain(IMAGE, classifier, '0', method='hirescam')


@pytest.mark.skipif(
    not (APART / 'pytorch_grad_cam').is_dir() and find_spec('pytorch_grad_cam') is None,
    reason=f'the package grad-cam is not in {APART}: requirements/set_up.sh puts it there',
)
def test_the_package_agrees(fresh):
    """In another process, where torchvision can be imported."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here, here.parents[2] / 'benchmarks')))
    code = f'import sys; sys.path[:0] = {path.split(os.pathsep)!r}; import grad_cam_checks'
    done = fresh.run('-c', code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(METHODS)

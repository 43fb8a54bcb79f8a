"""Which numbers of classes a model has; those of whole recipes are in tests/configs."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import swin_backbone  # noqa: F401
from swin_backbone.engine.class_counts import Classes, Count, counts_of
from swin_backbone.engine.config_text import as_command, as_config

ONE, TWO = Classes(('crack',)), Classes(('ground', 'crack'))


class Model(nn.Module):
    """A model of the given parts."""

    def __init__(self, **parts: object) -> None:
        super().__init__()
        for name, part in parts.items():
            is_list = isinstance(part, list)
            setattr(self, name, nn.ModuleList(part) if is_list else part)


class Head(nn.Module):
    """A part with attributes."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def wrong(model: nn.Module, classes: Classes, settings: dict | None = None) -> dict[str, int]:
    """What has to be set, and to which number."""
    found = counts_of(model, None if settings is None else dict(model=settings))
    pairs = ((count.option, count.wanted(classes)) for count in found)
    return {option: number for option, number in pairs if number is not None}


def segmentor(loss: dict | None = None, **head: object) -> nn.Module:
    init_default_scope('mmseg')
    import mmseg.models  # noqa: F401

    loss = loss or dict(type='CrossEntropyLoss')
    settings = dict(type='FCNHead', in_channels=4, channels=4, loss_decode=loss, **head)
    return Model(decode_head=MODELS.build(settings))


BINARY = dict(type='CrossEntropyLoss', use_sigmoid=True)


@pytest.mark.parametrize(
    ('head', 'classes', 'right'),
    [
        (dict(num_classes=2), TWO, True),
        (dict(num_classes=2, out_channels=1, threshold=0.5), TWO, True),
        (dict(num_classes=1), TWO, True),  # one channel tells them apart, with a sigmoid
        (dict(num_classes=1), ONE, True),
        (dict(num_classes=2), ONE, False),
        (dict(num_classes=2, out_channels=1, threshold=0.5), ONE, False),
        (dict(num_classes=3), TWO, False),
        (dict(num_classes=150), TWO, False),
    ],
)
def test_two_classes_of_pixels(head, classes, right):
    loss = BINARY if 1 in (head.get('out_channels'), head['num_classes']) else None
    number = len(classes.names)
    expected = {} if right else {'model.decode_head.num_classes': number}
    assert wrong(segmentor(loss, **head), classes) == expected


def test_class_weights_of_pixels():
    losses = [
        dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 3.0]),
        dict(type='FocalLoss', class_weight=[1.0, 2.0], loss_name='loss_focal'),
        dict(type='DiceLoss', loss_name='loss_dice'),
    ]
    found = wrong(segmentor(losses, num_classes=2), TWO)
    assert found == {'model.decode_head.loss_decode.0.class_weight': 2}


def test_edges_are_no_classes():
    """mmseg's STDCHead tells edges from the rest, whatever the classes."""
    edges = Head(num_classes=2, boundary_threshold=0.1)
    model = Model(decode_head=Head(num_classes=19), auxiliary_head=[Head(num_classes=19), edges])
    assert wrong(model, Classes(tuple(map(str, range(19))))) == {}


def test_what_does_not_know_classes_is_passed_over():
    model = Model(
        backbone=Head(num_classes=1000),
        rpn_head=Head(num_classes=1),
        roi_head=Model(
            bbox_head=Head(num_classes=2, reg_class_agnostic=True),
            mask_head=Head(num_classes=80, class_agnostic=True),
        ),
        reid=Head(num_classes=380),
    )
    assert wrong(model, TWO) == {}
    model.language_model, model.roi_head.bbox_head.num_classes = nn.Identity(), 256
    assert wrong(model, TWO) == {}


def test_proposals_of_a_detector_of_nothing_else():
    """mmdet's RPN keeps its ``rpn_head`` as ``bbox_head``."""
    settings = dict(rpn_head=dict(type='RPNHead'))
    assert wrong(Model(bbox_head=Head(num_classes=1)), TWO, settings) == {}


def test_defaults_are_told_of_and_what_follows_from_them_is_not():
    """A head that takes its number over from another one has no option."""
    inner = Head(num_classes=80, loss_cls=Head(num_classes=1203, class_weight=None))
    model = Model(bbox_head=inner, dn_query_generator=Head(num_classes=80))
    model.num_classes = 80
    settings = dict(bbox_head=dict(loss_cls=dict(type='SeesawLoss', num_classes=1203)))
    assert wrong(model, TWO, settings) == {
        'model.bbox_head.num_classes': 2,
        'model.bbox_head.loss_cls.num_classes': 2,
    }
    iterative = Head(num_classes=150, kernel_generate_head=Head(num_classes=150))
    settings = dict(decode_head=dict(kernel_generate_head=dict(num_classes=150)))
    found = wrong(Model(decode_head=iterative), TWO, settings)
    assert found == {'model.decode_head.kernel_generate_head.num_classes': 2}


def test_one_dict_for_every_stage():
    model = Model(roi_head=Model(bbox_head=[Head(num_classes=80), Head(num_classes=80)]))
    settings = dict(roi_head=dict(bbox_head=dict(num_classes=80)))
    assert wrong(model, TWO, settings) == {'model.roi_head.bbox_head.num_classes': 2}


def test_teacher_and_student_are_one_detector():
    model = Model(student=Model(bbox_head=Head(num_classes=80)))
    model.teacher = model.student
    settings = dict(detector=dict(bbox_head=dict(num_classes=80)))
    assert wrong(model, TWO, settings) == {'model.detector.bbox_head.num_classes': 2}


def test_wrappers_in_the_middle_add_nothing():
    wrapped = Model(roi_head=Model(_fsdp_wrapped_module=Model(bbox_head=Head(num_classes=80))))
    settings = dict(roi_head=dict(bbox_head=dict(num_classes=80)))
    assert wrong(wrapped, TWO, settings) == {'model.roi_head.bbox_head.num_classes': 2}


@pytest.mark.parametrize(
    ('head', 'right'),
    [
        (dict(cls_out_channels=2), [2]),
        (dict(cls_out_channels=3), [3]),
        (dict(fc_cls=None), [3]),
        (dict(), [2, 3]),
    ],
)
def test_class_weights_beside_the_background(head, right):
    for number in (1, 2, 3, 4):
        loss = Head(class_weight=[1.0] * number)
        found = wrong(Model(bbox_head=Head(num_classes=2, loss_cls=loss, **head)), TWO)
        assert (found == {}) == (number in right), number


def test_a_list_that_the_head_makes_is_no_option():
    """DETR's head makes one of a single weight."""
    loss = Head(class_weight=[1.0] * 80 + [0.1])
    model = Model(bbox_head=Head(num_classes=80, cls_out_channels=81, loss_cls=loss))
    settings = dict(bbox_head=dict(num_classes=80, loss_cls=dict(class_weight=1.0)))
    assert wrong(model, TWO, settings) == {'model.bbox_head.num_classes': 2}


def test_at_most():
    best = Count('val_evaluator.topk', 5, at_most=True)
    assert best.wanted(TWO) == 2 and best.wanted(Classes(tuple('abcde'))) is None
    assert best.wanted(Classes(tuple('abcdefg'))) is None


# --- as options are written -----------------------------------------------------------------------


def test_options_of_several_parts():
    options = {'model.head.num_classes': 3, 'data_preprocessor.num_classes': 3, 'v.topk': 1}
    assert as_config(options, Config(dict(model=dict(head=dict())))) == (
        'model = dict(head=dict(num_classes=3))\ndata_preprocessor = dict(num_classes=3)\n'
        'v = dict(topk=1)'
    )
    assert as_command(options) == (
        '--cfg-options model.head.num_classes=3 data_preprocessor.num_classes=3 v.topk=1'
    )


def test_options_in_lists():
    heads = [dict(loss=dict(num=1)), dict(loss=dict(num=1))]
    config = Config(dict(model=dict(heads=heads)))
    options = {f'model.heads.{i}.loss.num': 2 for i in range(2)}
    text = "[dict(item, loss=dict(item['loss'], num=2)) for item in _base_.model.heads]"
    assert as_config(options, config) == f'model = dict(heads={text})'
    del options['model.heads.1.loss.num']
    assert as_config(options, config) is None
    assert as_command(options) == '--cfg-options model.heads.0.loss.num=2'


def test_long_lists_are_short_in_a_config():
    text = as_config({'m.w': [1.0] * 80 + [0.1], 'm.v': [1.0] * 80}, Config({}))
    assert text == 'm = dict(w=[1.0] * 80 + [0.1], v=[1.0] * 80)'

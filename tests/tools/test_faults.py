"""Errors of configs and models name the cause and the option to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from swin_backbone import ArgumentError, SwinTransformer
from swin_backbone.tools import configs, faults
from swin_backbone.tools.complexity import complexity
from swin_backbone.tools.configs import read
from swin_backbone.tools.faults import channel_mismatch, explain
from swin_backbone.tools.predictor import Predictor, build_on_meta

SWIN = "type='SwinTransformer', embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)"
NECK = "type='FPN', in_channels=[24, 48, 96, 192], out_channels=16, num_outs=5"
HEAD = "type='RetinaHead', num_classes=3, in_channels=16"
DETECTOR = f"""
default_scope = 'mmdet'
model = dict(
    type='RetinaNet', backbone=dict({SWIN}), neck=dict({NECK}), bbox_head=dict({HEAD})
)
"""
RESNET = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
FORMER = 'data = dict(samples_per_gpu=2)\nrunner = dict(type="EpochBasedRunner", max_epochs=12)\n'


def failure(tmp_path, text: str) -> str:
    """The error for a config with this text."""
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(ArgumentError) as error:
        build_on_meta(read(tmp_path / 'mine.py'), 'mine')
    return str(error.value)


def test_a_swin_that_is_merged_into_a_resnet(tmp_path):
    said = failure(tmp_path, f'{RESNET}model = dict(backbone=dict({SWIN}))')
    assert 'backbone=dict(_delete_=True, …)' in said and "'depth', 'num_stages'" in said
    assert 'doctor' not in said
    replaced = f'{RESNET}model = dict(backbone=dict(_delete_=True, {SWIN}), neck=dict({NECK}))'
    (tmp_path / 'mine.py').write_text(replaced)
    model = build_on_meta(read(tmp_path / 'mine.py'), 'mine')
    assert model.backbone.num_features == [24, 48, 96, 192]


@pytest.mark.parametrize(
    ('before', 'after', 'place'),
    [
        (SWIN, f'_delete_=True, {SWIN}', 'model.backbone'),
        (NECK, f'_delete_=True, {NECK}', 'model.neck'),
        (f'dict({HEAD})', f'dict({HEAD}, loss_bbox=dict(_delete_=True, type="L1Loss"))',
         'model.bbox_head.loss_bbox'),
    ],
)  # fmt: skip
def test_a_delete_without_a_base_is_found_anywhere(tmp_path, before, after, place):
    assert failure(tmp_path, DETECTOR.replace(before, after)) == (
        f'the model of mine cannot be built: {place}: _delete_=True has no effect, because no base '
        'config has this dict: remove it'
    )


def test_pretrained_of_a_base_config(tmp_path):
    said = failure(
        tmp_path,
        "_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n"
        f'model = dict(backbone=dict(_delete_=True, {SWIN},'
        "init_cfg=dict(type='Pretrained', checkpoint='a.pth')))",
    )
    assert "pretrained='open-mmlab://resnet50_v1c' contradicts init_cfg" in said
    assert 'set model.pretrained=None' in said


@pytest.mark.parametrize(
    ('text', 'advice'),
    [
        (DETECTOR.replace("default_scope = 'mmdet'", ''),
         "the config has no default_scope: add default_scope='mmdet'"),
        (DETECTOR.replace("'mmdet'", "'mmseg'"),
         "RetinaNet is a model of mmdet: set default_scope='mmdet'"),
        ("model = dict(type='EncoderDecoder')",
         "the config has no default_scope: add default_scope='mmseg'"),
        ("model = dict(type='NoSuchModel')",
         "add default_scope='mmdet', or the framework's that the model is of"),
        ("default_scope = 'mmdet'\nmodel = dict(type='NoSuchModel')", 'swin-backbone doctor'),
    ],
    ids=['none', 'another', 'segmentor', 'unknown', 'misspelt'],
)  # fmt: skip
def test_the_scope_is_named(tmp_path, text, advice):
    said = failure(tmp_path, text)
    assert 'model registry; ' in said and advice in said.rpartition('; ')[2]


def test_a_framework_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(configs.EXTRAS, 'no_framework', 'none')
    text = "default_scope = 'no_framework'\nmodel = dict(type='NoSuchModel')"
    assert failure(tmp_path, text).endswith("pip install 'swin_backbone[none]' brings no_framework")
    (tmp_path / 'mine.py').write_text("a = __import__('no_framework')")
    with pytest.raises(ArgumentError, match=r"'swin_backbone\[none\]' brings no_framework$"):
        read(tmp_path / 'mine.py')


@pytest.mark.parametrize('scope', ['', "default_scope = 'mmdet'\n"])
def test_configs_of_mmdet_2_are_recognised(tmp_path, scope):
    model = f"model = dict(type='RetinaNet', pretrained='a.pth', backbone=dict({SWIN}))"
    said = failure(tmp_path, f'{scope}{FORMER}{model}')
    assert 'written for mmdet 2 or mmseg 0 (data.samples_per_gpu, runner)' in said
    assert 'docs/migrate.md' in said


def test_what_can_be_built_of_mmdet_2_has_no_test_pipeline(tmp_path):
    (tmp_path / 'mine.py').write_text(DETECTOR + FORMER)
    with pytest.raises(ArgumentError, match=r'has no test pipeline.*docs/migrate\.md'):
        Predictor(tmp_path / 'mine.py', 'none.pth')


def test_the_migration_page_has_the_section():
    page = (Path(__file__).parents[2] / 'docs/migrate.md').read_text()
    assert '## From the official detection or segmentation code' in page
    assert faults.written_for_former(dict(total_epochs=12)) and not faults.written_for_former(
        dict(train_dataloader={}, runner={})
    )


def test_the_part_that_cannot_be_built_is_named(tmp_path):
    said = failure(tmp_path, DETECTOR.replace('num_outs=5', 'num_outs=2'))
    assert 'model.neck: AssertionError: assert num_outs >= ' in said
    said = failure(tmp_path, DETECTOR.replace('num_classes', 'num_clases'))
    assert 'model.bbox_head: TypeError: RetinaHead.__init__() ' in said


# --- models that fail -----------------------------------------------------------------------------


def little(**more) -> nn.Module:
    """A detector on the meta device, with other settings of some parts."""
    content = Config.fromstring(DETECTOR, '.py')
    content.merge_from_dict({f'model.{key.replace("__", ".")}': v for key, v in more.items()})
    return build_on_meta(content, 'mine')


def said_of(model: nn.Module, call) -> str:
    try:
        call(model)
    except Exception as error:  # what it may be is what is tested
        return explain(error)
    raise AssertionError('it did not fail')


def test_the_option_of_a_neck_of_other_channels_is_named():
    model = little(neck__in_channels=[96, 192, 384, 768])
    said = said_of(model, lambda model: complexity(model, (3, 64, 64)))
    assert said.startswith('model.neck, a FPN, failed in neck.lateral_convs.0.conv: RuntimeError: ')
    assert said.endswith(
        'model.neck is given [24, 48, 96, 192] channels, and is set to [96, 192, 384, 768]: set '
        'model.neck.in_channels=[24, 48, 96, 192]'
    )


def test_a_head_of_other_channels_is_no_head_of_another_kind():
    model = little(bbox_head__in_channels=256)
    with pytest.raises(ArgumentError, match=r'given 16 channels.*model\.bbox_head\.in_channels=16'):
        complexity(model, (3, 64, 64))


class Head(BaseModule):
    def __init__(self, in_channels, in_index=-1, input_transform=None) -> None:
        super().__init__()
        self.in_channels, self.in_index = in_channels, in_index
        self.input_transform = input_transform


@pytest.mark.parametrize(
    ('head', 'right'),
    [
        (Head(192), ''),
        (Head(96, 2), ''),
        (Head(97, 2), '96'),
        (Head([24, 48], [0, 1], 'multiple_select'), ''),
        (Head([24, 49], [0, 1], 'multiple_select'), '[24, 48]'),
        (Head(72, [0, 1], 'resize_concat'), ''),
        (Head(71, [0, 1], 'resize_concat'), '72'),
        (Head(None), ''),
    ],
)
def test_channels_as_mmsegs_heads_pick_them(head, right):
    model = nn.Module()
    model.backbone = SwinTransformer(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    model.decode_head = head
    found = channel_mismatch(model, 'decode_head')
    assert found.endswith(f'set model.decode_head.in_channels={right}') if right else found == ''


def test_the_innermost_part_is_named_and_cascades_by_number():
    class Cascade(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 4, 1)
            self.decode_head = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4))])

        def forward(self, x):
            if x.shape[1] != 3:
                raise RuntimeError('no such\nimage')
            return self.decode_head[0](self.backbone(x).mean((2, 3)))

    model = Cascade()
    said = said_of(model, lambda model: model(torch.zeros(1, 3, 4, 4)))
    assert said.startswith('model.decode_head.0, a Sequential, failed in decode_head.0.1: Runtime')
    said = said_of(model, lambda model: model(torch.zeros(1, 2, 4, 4)))
    assert said == (
        'the model, a Cascade, failed on an input of shape (1, 2, 4, 4): RuntimeError: no such'
    )


def test_a_step_of_the_pipeline_is_named():
    class Broken:
        def transform(self, results):
            raise KeyError('img')

    assert said_of(Broken(), lambda step: step.transform({})) == (
        'the step Broken of the test pipeline failed: KeyError: img'
    )


def test_other_errors_are_a_line():
    assert said_of(nn.Identity(), lambda _: 1 / 0) == 'ZeroDivisionError: division by zero'
    assert explain(ValueError()) == 'ValueError'
    assert explain(ValueError('a\nb')) == 'ValueError: a'
    assert explain(ArgumentError('a\nb')) == 'a\nb'
    assert len(explain(ValueError('a' * 9999))) < 400

"""Parameters and FLOPs are those of real runs, of mmdet's own backbone and of the paper."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer as StockSwin
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone import ArgumentError, SwinTransformer
from swin_backbone.ops.backends import use_backend
from swin_backbone.swin import VARIANTS
from swin_backbone.tools.complexity import complexity, default_shape

SHAPE = (3, 100, 140)  # padded to whole windows in every stage


def on_meta(build, *args, **kwargs) -> nn.Module:
    with torch.device('meta'):
        return build(*args, **kwargs)


def of_config(**config) -> nn.Module:
    config = Config(config)
    init_default_scope(config.get('default_scope', 'mmdet'))
    return on_meta(MODELS.build, config.model)


def flops_of(found, pattern: str) -> int:
    return sum(part.flops for part in found.parts if pattern in part.name)


def run_for_real(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), use_backend('reference'):
        model(torch.zeros(1, *SHAPE))
    return counter.get_total_flops() // 2


def test_executed_is_what_runs(small, small_model):
    found = complexity(on_meta(SwinTransformer, **small), SHAPE)
    assert found.flops_executed == run_for_real(small_model)
    assert found.flops > found.flops_executed
    assert found.params == sum(p.numel() for p in small_model.parameters())
    assert found.not_counted == []


@pytest.mark.parametrize('shape', [SHAPE, (3, 128, 64), (3, 800, 1280)])
def test_flops_are_those_of_code_that_projects_padded_tokens(small, shape):
    """mmdet's backbone computes what the official one does: the counts of all parts agree."""
    ours = complexity(on_meta(SwinTransformer, **small), shape)
    stock = complexity(StockSwin(**small).to('meta'), shape)
    assert [(p.name, p.params, p.flops) for p in ours.parts] == [
        (p.name, p.params, p.flops) for p in stock.parts
    ]
    assert stock.flops == stock.flops_executed


def test_nothing_is_padded_where_windows_fit(small):
    found = complexity(on_meta(SwinTransformer, **small), (3, 128, 256))
    assert found.flops == found.flops_executed


@pytest.mark.parametrize('backend', ['reference', 'sdpa', 'cpu', 'triton'])
def test_count_depends_on_no_backend(monkeypatch, small, backend):
    model = on_meta(SwinTransformer, **small)
    before = complexity(model, SHAPE)
    monkeypatch.setenv('SWIN_BACKEND', backend)
    assert complexity(model, SHAPE) == before
    monkeypatch.delenv('SWIN_BACKEND')
    with use_backend(backend):
        assert complexity(model, SHAPE) == before


def test_equations_of_the_paper():
    """Section 3.2: 4hwC² + 2M²hwC for attention; 8hwC² for a feed-forward network of ratio 4."""
    found = complexity(on_meta(SwinTransformer, arch='tiny'), (3, 224, 224))
    for i, depth in enumerate(VARIANTS['tiny']['depths']):
        tokens, width = (56 >> i) ** 2, 96 << i
        attention = 4 * tokens * width**2 + 2 * 49 * tokens * width
        assert flops_of(found, f'stages.{i}.attention') == depth * attention
        assert flops_of(found, f'stages.{i}.mlp') == depth * 8 * tokens * width**2
        if i < 3:
            assert flops_of(found, f'stages.{i}.merging') == tokens // 4 * 4 * width * 2 * width
    assert flops_of(found, 'patch_embed') == 56**2 * 4 * 4 * 3 * 96


def test_position_embedding_is_a_parameter_too(small):
    model = on_meta(SwinTransformer, **small, use_abs_pos_embed=True, pretrain_img_size=32)
    plain = on_meta(SwinTransformer, **small)
    other = complexity(model, SHAPE).params - complexity(plain, SHAPE).params
    assert other == 8 * 8 * small['embed_dims']


def stock(name: str) -> nn.Module:
    return of_config(**get_config(f'mmdet::{name}'))


def test_hybrid_task_cascade_hands_its_masks_features_on():
    """Each mask head after the first has a 1×1 convolution for the previous head's features."""
    found = complexity(stock('htc/htc-without-semantic_r50_fpn_1x_coco.py'), (3, 64, 64))
    masks = [flops_of(found, f'roi_head.mask_head.{i}') for i in range(3)]
    assert masks[1] == masks[2] == masks[0] + 100 * 14 * 14 * 256 * 256
    boxes = [flops_of(found, f'roi_head.bbox_head.{i}') for i in range(3)]
    assert boxes[0] == 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 4))
    assert found.not_counted == []
    assert [part.name for part in found.parts if part.name.startswith('backbone')] == ['backbone']


def test_heads_that_need_more_than_features_are_named():
    found = complexity(stock('detr/detr_r50_8xb2-150e_coco.py'), (3, 64, 64))
    assert {'encoder', 'decoder', 'bbox_head'} <= set(found.not_counted)
    assert flops_of(found, 'backbone') > 0 and found.flops == sum(p.flops for p in found.parts)
    assert flops_of(found, 'decoder') == 0


def test_box_heads_that_need_more_than_regions_are_named():
    found = complexity(stock('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py'), (3, 64, 64))
    assert found.not_counted == ['roi_head.bbox_head']
    assert flops_of(found, 'roi_head.bbox_head') == 0 < flops_of(found, 'rpn_head')


def test_segmentor_of_inference_has_no_auxiliary_head():
    widths = [24, 48, 96, 192]
    head = dict(channels=16, num_classes=4)
    found = complexity(
        of_config(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor'),
                backbone=dict(type='SwinBackbone', embed_dims=24, num_heads=(1, 2, 3, 4)),
                decode_head=dict(
                    type='UPerHead', in_channels=widths, in_index=[0, 1, 2, 3], **head
                ),
                auxiliary_head=dict(type='FCNHead', in_channels=96, in_index=2, **head),
            ),
        ),
        SHAPE,
    )
    parts = {part.name: part for part in found.parts}
    assert parts['decode_head'].flops > 0 and parts['auxiliary_head'].params > 0
    assert parts['auxiliary_head'].flops == 0 and found.not_counted == []


class Classifier(nn.Module):
    def __init__(self, **backbone):
        super().__init__()
        self.backbone = SwinTransformer(**backbone, out_indices=(3,))
        self.neck = nn.Sequential(Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(192, 10)


class Last(nn.Module):
    def forward(self, features):
        return features[-1]


def test_classifier(small):
    found = complexity(on_meta(Classifier, **small), (3, 64, 64))
    head = next(part for part in found.parts if part.name == 'head')
    assert (head.params, head.flops) == (1930, 1920)


class Wrapper(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise AssertionError('nothing to run')


def test_wrong_arguments(small):
    with pytest.raises(ArgumentError, match='has weights'):
        complexity(SwinTransformer(**small), SHAPE)
    with pytest.raises(ArgumentError, match=r'shape=\(64, 64\)'):
        complexity(on_meta(SwinTransformer, **small), (64, 64))
    with pytest.raises(ArgumentError, match='no backbone'):
        complexity(Wrapper(), SHAPE)
    with pytest.raises(ArgumentError, match='in_channels='):
        complexity(on_meta(SwinTransformer, **small), (4, 64, 64))


def test_hooks_are_gone_afterwards(small):
    model = on_meta(SwinTransformer, **small)
    complexity(model, SHAPE)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_default_shapes():
    backbone = dict(backbone=dict(type='SwinTransformer'))
    assert default_shape(dict(model=backbone)) == (3, 800, 1280)
    segmentor = dict(**backbone, decode_head={})
    assert default_shape(dict(model=segmentor)) == (3, 512, 2048)
    segmentor['data_preprocessor'] = dict(size=(640, 640))
    assert default_shape(dict(model=segmentor)) == (3, 640, 2560)
    classifier = dict(backbone=dict(in_channels=4), head={})
    assert default_shape(dict(model=classifier)) == (4, 224, 224)
    for last in (dict(type='CenterCrop', crop_size=384), dict(type='Resize', scale=(384, 384))):
        pipeline = [dict(type='ResizeEdge', scale=438), last, dict(type='PackInputs')]
        loader = dict(dataset=dict(pipeline=pipeline))
        found = default_shape(dict(model=classifier, test_dataloader=loader))
        assert found == (4, 384, 384)

"""Blocks and stages take single options by position and by name, and hand them on by name."""

from __future__ import annotations

import inspect

import pytest
import torch

from swin_backbone import SwinTransformer, SwinTransformerV2, swin, swin_v2
from swin_backbone.layers import (
    ShiftWindowMSA,
    SwinBlock,
    SwinBlockSequence,
    SwinBlockV2,
    SwinBlockV2Sequence,
)
from swin_backbone.options import BlockOptionsV1, BlockOptionsV2

GELU, LN = dict(type='GELU'), dict(type='LN')
TINY = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))


def test_positional_arguments_of_v2():
    block = SwinBlockV2(24, 3, 40, 4, True, 8, True, False, 0.1, 0.2, 0.3, GELU, LN, 'mlp', None)
    assert block.attn.window_size == 4 and block.attn.shift_size == 2
    assert block.attn.w_msa.pretrained_window_size == 8 and block.attn.w_msa.q_bias is None
    assert block.norm3 is not None and block.with_cp == 'mlp'
    attention = block.attn
    rates = attention.w_msa.proj_drop.p, attention.w_msa.attn_drop.p, attention.drop.drop_prob
    assert rates == (0.1, 0.2, 0.3)
    stage = SwinBlockV2Sequence(24, 3, 40, 4, 5, 8, 2, False, 0.1, 0.2, 0.3, None, GELU, LN, True)
    assert [found.extra_norm for found in stage.blocks] == [False, True, False, True]
    assert {found.attn.window_size for found in stage.blocks} == {5} and stage.with_cp is True


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        (SwinBlock, BlockOptionsV1),
        (SwinBlockSequence, BlockOptionsV1),
        (SwinBlockV2, BlockOptionsV2),
        (SwinBlockV2Sequence, BlockOptionsV2),
    ],
)
def test_signatures_have_types_and_errors_the_class(kind, options):
    parameters = inspect.signature(kind).parameters
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values())
    assert {name: parameters[name].default for name in vars(options())} == vars(options())
    for wrong in (dict(embed_dim=8), dict(window=7)):
        with pytest.raises(TypeError, match=rf'^{kind.__name__}\.__init__\(\) '):
            kind(*(8, 1, 16, 1), **wrong)


class NamedStage(SwinBlockSequence):
    """With a constructor like mmdet's."""

    def __init__(
        self,
        embed_dims,
        num_heads,
        feedforward_channels,
        depth,
        window_size=7,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.0,
        downsample=None,
        act_cfg=GELU,
        norm_cfg=LN,
        with_cp=False,
        init_cfg=None,
        pad_small_map=True,
    ):
        super().__init__(
            *(embed_dims, num_heads, feedforward_channels, depth, window_size, qkv_bias, qk_scale),
            *(drop_rate, attn_drop_rate, drop_path_rate, downsample, act_cfg, norm_cfg, with_cp),
            init_cfg,
            pad_small_map=pad_small_map,
        )


class StageOfKeywords(SwinBlockV2Sequence):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.side = kwargs['window_size']


def test_a_stage_of_ones_own_gets_the_options_by_name(monkeypatch):
    monkeypatch.setattr(swin, 'SwinBlockSequence', NamedStage)
    stage = SwinTransformer(**TINY, window_size=3, qk_scale=0.5).stages[0]
    assert type(stage) is NamedStage and stage.blocks[0].attn.window_size == 3
    assert stage.blocks[0].attn.w_msa.scale == 0.5
    monkeypatch.setattr(swin_v2, 'SwinBlockV2Sequence', StageOfKeywords)
    model = SwinTransformerV2(**TINY, window_size=[2, 3, 4, 5])
    assert [stage.side for stage in model.stages] == [2, 3, 4, 5]


class NamedBlock(SwinBlock):
    def __init__(self, embed_dims, num_heads, feedforward_channels, window_size, **rest):
        super().__init__(embed_dims, num_heads, feedforward_channels, window_size, **rest)


class Attention(ShiftWindowMSA):
    def __init__(self, embed_dims, num_heads, window_size, **rest):
        super().__init__(embed_dims, num_heads, window_size, **rest)


def test_classes_that_pass_keywords_on_get_every_option(monkeypatch):
    monkeypatch.setattr(SwinBlockSequence, 'block_type', NamedBlock)
    monkeypatch.setattr(NamedBlock, 'attention_type', Attention)
    model = SwinTransformer(**TINY, window_size=3, qk_scale=0.5, qkv_bias=False, attn_drop_rate=0.2)
    block = model.stages[0].blocks[0]
    assert type(block) is NamedBlock and type(block.attn) is Attention
    attention = block.attn.w_msa
    assert attention.qkv.bias is None and attention.scale == 0.5 and attention.attn_drop.p == 0.2
    assert len(model(torch.zeros(1, 3, 32, 32))) == 4

"""Arguments that configs bring along from elsewhere, and what messages say of them."""

from __future__ import annotations

import inspect

import pytest
from small import SMALL

from swin_backbone import ArgumentError, SwinTransformer, SwinTransformerV2
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)

KINDS = [
    SwinTransformer,
    SwinTransformerV2,
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
]


@pytest.mark.parametrize('kind', KINDS)
def test_another_backbones_arguments_are_a_merge(kind):
    with pytest.raises(
        TypeError, match=r'replace that backbone: backbone=dict\(_delete_=True'
    ) as e:
        kind(depth=50, num_stages=4, style='pytorch')
    assert "got unknown arguments 'depth', 'num_stages', 'style'. If they come" in str(e.value)
    assert isinstance(e.value, ArgumentError)


def test_one_of_another_backbones_may_be_misspelt_as_well():
    with pytest.raises(TypeError, match=r"'depth'; did you mean 'depths'\?\. If .*_delete_=True"):
        SwinTransformer(depth=50)


def test_misspelt_arguments_are_named_together():
    with pytest.raises(TypeError) as error:
        SwinTransformer(window_szie=7, embed_dmis=96, zzzzzzzzzz=1)
    assert str(error.value) == (
        "SwinTransformer got unknown arguments 'window_szie' (did you mean 'window_size'?), "
        "'embed_dmis' (did you mean 'embed_dims'?), 'zzzzzzzzzz'"
    )


LEFT = '_delete_=True has no effect, because no base config has this dict: remove it'


@pytest.mark.parametrize('kind', KINDS)
def test_a_delete_that_is_left(kind):
    with pytest.raises(TypeError, match=f"got an unknown argument '_delete_': {LEFT}"):
        kind(_delete_=True, depth=50)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='a.pth')),
        dict(init_cfg=[dict(_delete_=True, type='Normal', layer='Linear')]),
        dict(norm_cfg=dict(_delete_=True, type='LN')),
        dict(arch=dict(_delete_=True, embed_dims=8, depths=(1,), num_heads=(1,))),
    ],
    ids=str,
)
def test_a_delete_that_is_left_within_an_argument(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=f'SwinTransformer: {name}=.*: {LEFT}'):
        SwinTransformer(**(arguments if name == 'arch' else {**SMALL, **arguments}))


def test_an_arch_of_a_base_config_can_be_dropped():
    with pytest.raises(ArgumentError, match=r"contradicts arch='tiny'.* \(arch=None where a base"):
        SwinTransformer(arch='tiny', embed_dims=24)
    assert SwinTransformer(**SMALL, arch=None).num_features[0] == 24


def test_positional_arguments_of_v2_keep_their_order():
    names = list(inspect.signature(SwinTransformerV2).parameters)
    without_qk_scale = [n for n in inspect.signature(SwinTransformer).parameters if n != 'qk_scale']
    own = ['pretrained_window_sizes', 'extra_norm_every_n_blocks']
    assert names == [*without_qk_scale[:-1], *own, 'global_attention']

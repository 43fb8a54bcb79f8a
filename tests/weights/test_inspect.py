"""Descriptions of checkpoints, and predictions of what loading resizes."""

from __future__ import annotations

import official
import pytest
import torch
from small import SMALL

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.swin import VARIANTS
from swin_backbone.weights import describe, what_would_be_resized

GEOMETRY = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_variants_are_known_and_counted(arch):
    with torch.device('meta'):
        model = SwinTransformer(arch=arch, window_size=12)
    description = describe(dict(model.state_dict()))
    assert description.architecture == arch
    assert description.window_size == 12
    assert description.embed_dims == VARIANTS[arch]['embed_dims']
    assert description.depths == VARIANTS[arch]['depths']
    assert description.num_heads == VARIANTS[arch]['num_heads']
    assert description.patch_size == (4, 4)
    assert description.in_channels == 3
    assert description.output_norms == (0, 1, 2, 3)
    assert description.parameters == sum(p.numel() for p in model.parameters())
    assert description.dtypes == ('float32',)
    assert (description.num_classes, description.positions) == (None, 0)


def test_a_file_is_described_without_its_classifier_counted():
    state_dict = official.random_state_dict(classification=True)
    description = describe({'model': state_dict, 'epoch': 3})
    backbone = SwinTransformer(**GEOMETRY, out_indices=(0,))
    norms = sum(p.numel() for n, p in backbone.named_parameters() if n.startswith('norm0'))
    everything = [*backbone.parameters(), *backbone.buffers()]
    weights = sum(t.numel() for t in everything if t.is_floating_point()) - norms
    assert description.parameters == weights
    assert (description.container, description.prefix) == ('model', '')
    assert (description.num_classes, description.epoch, description.iteration) == (10, 3, None)
    assert str(description).startswith('embed_dims=16, depths=(2, 2, 2, 2), window_size=4')


def test_other_networks_are_an_error():
    with pytest.raises(CheckpointError, match=r'known Swin layout; it holds conv1\.weight'):
        describe({'state_dict': {'conv1.weight': torch.zeros(1)}})
    with pytest.raises(CheckpointError, match='it holds nothing'):
        describe({})


def test_resizing_is_predicted():
    description = describe(official.random_state_dict(ape_grid=(8, 8)))
    ape = dict(use_abs_pos_embed=True, pretrain_img_size=32)
    assert what_would_be_resized(description, dict(**GEOMETRY, **ape)) == []
    config = dict(type='SwinTransformer', **{**GEOMETRY, 'window_size': 7}, init_cfg=dict(type='X'))
    config |= dict(use_abs_pos_embed=True, pretrain_img_size=(32, 64))
    assert what_would_be_resized(description, config) == [
        'relative position bias: window 4 to 7',
        'absolute position embedding: 8×8 to 8×16',
    ]
    model = SwinTransformer(**GEOMETRY, use_abs_pos_embed=True, pretrain_img_size=64)
    assert what_would_be_resized(description, model) == [
        'absolute position embedding: 8×8 to 16×16'
    ]


def test_other_architectures_are_an_error():
    description = describe(official.random_state_dict())
    with pytest.raises(CheckpointError, match=r'embed_dims: found 16, wanted 24'):
        what_would_be_resized(description, dict(SMALL))
    with pytest.raises(CheckpointError, match='in_channels: found 3, wanted 4'):
        what_would_be_resized(description, dict(**GEOMETRY, in_channels=4))
    with pytest.raises(CheckpointError, match='the model has an absolute position embedding'):
        what_would_be_resized(description, dict(**GEOMETRY, use_abs_pos_embed=True))

"""Loading classifiers of any layout into a model of ``backbone`` and ``head``."""

from __future__ import annotations

import official
import pytest
import torch

from swin_backbone.weights import convert, translate_classifier


@pytest.fixture
def weights() -> dict:
    return official.random_state_dict(classification=True)


@pytest.mark.parametrize('layout', ['microsoft', 'timm', 'torchvision', 'transformers'])
@pytest.mark.parametrize('wrap', [dict, lambda weights: {'model': weights, 'epoch': 1}])
def test_any_layout_becomes_mmpretrains(weights, layout, wrap):
    state_dict = wrap(convert(weights, layout))
    translate_classifier(state_dict)
    wanted = convert(weights, 'mmpretrain')
    # The backbone's own hook names the norm, and makes indices.
    renamed = {key.replace('backbone.norm.', 'backbone.norm3.') for key in state_dict}
    assert renamed == {key for key in wanted if not key.endswith('_index')}
    torch.testing.assert_close(state_dict['head.fc.weight'], weights['head.weight'])
    reduction = 'backbone.stages.0.downsample.reduction.weight'
    torch.testing.assert_close(state_dict[reduction], wanted[reduction])


def test_under_a_prefix_and_nothing_beside_it(weights):
    state_dict = {f'model.{key}': value for key, value in weights.items()} | {'other': 1}
    translate_classifier(state_dict, 'model.')
    assert state_dict.pop('other') == 1
    assert all(key.startswith(('model.backbone.', 'model.head.fc.')) for key in state_dict)


@pytest.mark.parametrize(
    'left',
    [
        lambda weights: convert(weights, 'mmpretrain'),
        lambda weights: {k: v for k, v in weights.items() if not k.startswith('head.')},
        lambda weights: {'conv1.weight': weights['head.weight']},
        lambda weights: {},
    ],
    ids=['mmpretrain', 'no classifier', 'no Swin', 'nothing'],
)
def test_leaves_everything_else(weights, left):
    state_dict = left(weights)
    before = dict(state_dict)
    translate_classifier(state_dict)
    assert state_dict == before

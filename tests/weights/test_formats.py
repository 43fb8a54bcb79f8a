"""Layouts are detected from their keys, and conversions are lossless."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import official
import pytest
import torch

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer
from swin_backbone.weights import convert, describe
from swin_backbone.weights.formats import FORMATS, by_name, detect, locate
from swin_backbone.weights.resize import as_sequence

RECORDED = json.loads((Path(__file__).parent / 'recorded_keys.json').read_text())
GEOMETRY = dict(embed_dims=24, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4), window_size=4)
NAMES = [layout.name for layout in FORMATS]
CLASSIFIERS = ('microsoft', 'mmpretrain', 'timm', 'torchvision', 'transformers')
DETECTORS = ('microsoft', 'openmmlab', 'detectron2', 'transformers')
HAVE_NO_EMBEDDING = ('timm', 'torchvision')


def recorded(name):
    """Random weights with the names and shapes of a project's own code."""
    shapes = RECORDED[name]['shapes'].items()
    return {key: 0.2 * torch.randn(shape, dtype=torch.float64) for key, shape in shapes}


def informative(state_dict):
    """The weights without derived buffers."""
    derived = re.compile(r'attn_mask$|relative_position_index$')
    return {key: value for key, value in state_dict.items() if not derived.search(key)}


def assert_identical(found, expected):
    found, expected = informative(found), informative(expected)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # A position embedding may be a map or a sequence in the official layout.
        both = (
            as_sequence(t) if 'pos_' in key or 'position_emb' in key else t
            for t in (found[key], value)
        )
        assert torch.equal(*both), key


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(('first', 'second'), list(itertools.permutations(CLASSIFIERS, 2)))
def test_classifiers_survive_any_two_conversions(first, second):
    original = official.random_state_dict(classification=True)
    as_first = convert(original, first)
    as_second = convert(as_first, second)
    assert detect(as_second).name == second
    assert_identical(convert(as_second, first), as_first)
    assert_identical(convert(as_second, 'microsoft'), original)


@pytest.mark.parametrize(('first', 'second'), list(itertools.permutations(DETECTORS, 2)))
def test_detection_backbones_survive_any_two_conversions(first, second):
    original = official.random_state_dict(ape_grid=(8, 8))
    as_first = convert(original, first)
    as_second = convert(as_first, second)
    assert detect(as_second).name == second
    assert_identical(convert(as_second, first), as_first)


@pytest.mark.parametrize('name', [n for n in NAMES if n not in CLASSIFIERS])
def test_dropped_weights_are_reported(name):
    dropped = []
    converted = convert(official.random_state_dict(classification=True), name, dropped=dropped)
    assert dropped == ['norm.weight', 'norm.bias', 'head.fc.weight', 'head.fc.bias']
    assert not any('head' in key or key == 'norm.weight' for key in converted)


@pytest.mark.parametrize('name', HAVE_NO_EMBEDDING)
def test_weights_of_the_features_are_never_dropped(name):
    with pytest.raises(CheckpointError, match=f"absolute_pos_embed has no place in .*'{name}'"):
        convert(official.random_state_dict(ape_grid=(8, 8)), name)


@pytest.mark.parametrize(
    ('name', 'shape'), [('microsoft', (16, 16)), ('torchvision', (256,)), ('openmmlab', (16, 16))]
)
def test_position_indices_are_computed(name, shape):
    converted = convert(official.random_state_dict(), name)
    indices = [v for k, v in converted.items() if k.endswith('relative_position_index')]
    expected = SwinTransformer(**GEOMETRY).stages[0].blocks[0].attn.w_msa.relative_position_index
    assert len(indices) == 8
    for index in indices:
        assert index.shape == shape
        assert torch.equal(index.view(16, 16), expected)


def test_an_unknown_format_is_named():
    with pytest.raises(ArgumentError, match=r"'tim'.*one of .*timm"):
        convert(official.random_state_dict(), 'tim')


# --- told by their keys --------------------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES)
def test_layouts_are_detected_from_their_keys(name):
    converted = convert(official.random_state_dict(), name)
    assert describe(converted).format == name or name == 'mmpretrain'
    classifier = convert(official.random_state_dict(classification=True), name)
    assert describe(classifier).format == name or name == 'mmpretrain'


def test_timms_two_layouts_differ_in_where_merging_is():
    old = official.random_state_dict(classification=True)
    new = convert(old, 'timm')
    assert 'layers.0.downsample.norm.weight' in old and 'head.weight' in old
    assert 'layers.1.downsample.norm.weight' in new and 'head.fc.weight' in new
    assert 'layers.0.downsample.norm.weight' not in new
    headless = {k: v for k, v in new.items() if not k.startswith('head.')}
    features_only = {re.sub(r'^layers\.', 'layers_', k): v for k, v in headless.items()}
    for state_dict in (new, headless, features_only):
        assert detect(state_dict) is by_name('timm')
        assert_identical(convert(state_dict, 'openmmlab'), convert(new, 'openmmlab'))


def test_transformers_names_in_files_and_in_memory():
    transformers = pytest.importorskip('transformers')
    config = transformers.SwinConfig(
        embed_dim=24,
        depths=[2, 1, 3, 2],
        num_heads=[1, 2, 3, 4],
        window_size=4,
        use_absolute_embeddings=True,
        image_size=64,
    )
    for cls in (transformers.SwinModel, transformers.SwinForImageClassification):
        theirs = cls(config)
        description = describe(dict(theirs.state_dict()))
        assert (description.format, description.depths) == ('transformers', (2, 1, 3, 2))
        assert description.pretrain_grid == (16, 16)
        backbone = SwinTransformer(**GEOMETRY, use_abs_pos_embed=True, pretrain_img_size=64)
        backbone.load_state_dict(dict(theirs.state_dict()), strict=True)
        query = theirs.state_dict()[
            next(k for k in theirs.state_dict() if k.endswith('0.blocks.0.attention.q_proj.weight'))
        ]
        assert torch.equal(backbone.stages[0].blocks[0].attn.w_msa.qkv.weight[:24], query)


# --- projects that cannot be installed beside this stack: keys recorded from their sources -------


@pytest.mark.parametrize(
    ('name', 'layout', 'prefix', 'classes', 'norms', 'grid'),
    [
        ('microsoft', 'microsoft', '', 7, (), (32, 32)),
        ('simmim', 'microsoft', 'encoder.', None, (), None),
        ('moby', 'microsoft', 'encoder.', None, (), None),
        ('detectron2', 'detectron2', '', None, (0, 1, 2, 3), (40, 48)),
        ('detrex', 'microsoft', 'backbone.', None, (1, 2, 3), None),
    ],
)
def test_recorded_keys(name, layout, prefix, classes, norms, grid):
    state_dict = recorded(name)
    description = describe({'model': state_dict, 'epoch': 5})
    assert description.format == layout
    assert description.prefix == prefix
    assert description.version == 1
    assert description.embed_dims == 24
    assert description.depths == (2, 1, 3, 2)
    assert description.num_heads == (1, 2, 3, 4)
    assert description.window_size == 4
    assert description.num_classes == classes
    assert description.output_norms == norms
    assert description.pretrain_grid == grid
    assert description.epoch == 5

    size = dict(use_abs_pos_embed=True, pretrain_img_size=tuple(4 * g for g in grid or ()))
    backbone = SwinTransformer(**GEOMETRY, **(size if grid else {}))
    backbone.double().eval().load_state_dict({'model': state_dict}, strict=True)
    weights = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    weights = {k.removeprefix('backbone.bottom_up.'): v for k, v in weights.items()}
    if weights.get('absolute_pos_embed', torch.zeros(0)).dim() == 3:
        weights['absolute_pos_embed'] = weights['absolute_pos_embed'].mT.reshape(1, 24, 32, 32)
    x = torch.randn(1, 3, 75, 90, dtype=torch.float64)
    expected = official.forward(weights, x, 4)
    with torch.no_grad():
        for i, (out, features) in enumerate(zip(backbone(x), expected, strict=True)):
            if i not in norms:  # it is as constructed
                features = features.permute(0, 2, 3, 1)
                features = torch.nn.functional.layer_norm(features, features.shape[-1:])
                features = features.permute(0, 3, 1, 2)
            torch.testing.assert_close(out, features, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', ['microsoft', 'detectron2'])
def test_recorded_files_survive_a_round_trip(name):
    others = ('backbone.fpn', 'proposal_generator')
    own = {k: v for k, v in recorded(name).items() if not k.startswith(others)}
    layout = by_name(name)
    assert_identical(layout.from_openmmlab(layout.to_openmmlab(own)), own)
    # Every buffer that the project's strict loading wants is there, masks apart.
    back = layout.from_openmmlab(layout.to_openmmlab(own))
    assert {k: v.shape for k, v in back.items()} == {
        k: v.shape for k, v in own.items() if not k.endswith('attn_mask')
    }


def test_other_networks_have_no_layout():
    assert locate({'conv1.weight': 0, 'layer1.0.conv1.weight': 0}) == {}
    assert locate({'blocks.0.attn.qkv.weight': 0}) == {}  # a ViT
    assert detect({'backbone.layers.0.blocks.0.attn.qkv.weight': 0}) is None

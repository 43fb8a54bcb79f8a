"""Swin Transformer V2 in every layout: detection from the keys, lossless conversions."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
import v2_files

from swin_backbone import CheckpointError
from swin_backbone.layers.attention import relative_position_index
from swin_backbone.weights import convert, describe
from swin_backbone.weights.compare import compare
from swin_backbone.weights.coords_table import pretrained_window_of, table_of, window_of
from swin_backbone.weights.formats import FORMATS, by_name, detect

RECORDED = json.loads((Path(__file__).parent / 'recorded_keys.json').read_text())
NAMES = [layout.name for layout in FORMATS]
CLASSIFIERS = ('microsoft', 'mmpretrain', 'timm', 'torchvision', 'transformers')
DETECTORS = ('microsoft', 'openmmlab', 'detectron2')
HAVE_NO_EXTRA_NORM = ('detectron2', 'timm', 'torchvision', 'transformers')
# Layouts whose files hold the table of coordinates, and so say what the windows are.
TELL_THE_WINDOW = ('microsoft', 'mmpretrain', 'openmmlab', 'torchvision', 'detectron2')


def informative(state_dict):
    derived = re.compile(r'relative_(position_index|coords_table)$')
    return {key: value for key, value in state_dict.items() if not derived.search(key)}


def assert_identical(found, expected):
    found, expected = informative(found), informative(expected)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(('first', 'second'), list(itertools.permutations(CLASSIFIERS, 2)))
def test_classifiers_survive_any_two_conversions(first, second):
    original = v2_files.random_state_dict()
    as_first = convert(original, first, window_size=4)
    as_second = convert(as_first, second, window_size=4)
    assert detect(as_second).name == second
    assert describe(as_second).version == 2
    assert_identical(convert(as_second, first, window_size=4), as_first)
    assert_identical(convert(as_second, 'microsoft'), original)


@pytest.mark.parametrize(('first', 'second'), list(itertools.permutations(DETECTORS, 2)))
def test_detection_backbones_survive_any_two_conversions(first, second):
    original = v2_files.random_state_dict(classification=False)
    as_first = convert(original, first)
    as_second = convert(as_first, second)
    assert detect(as_second).name == second
    assert_identical(convert(as_second, first), as_first)


@pytest.mark.parametrize('name', TELL_THE_WINDOW)
def test_buffers_survive_where_files_hold_them(name):
    windows, pretrained = (8, 8, 8, 4), (6, 6, 6, 3)
    original = v2_files.random_state_dict(windows, pretrained)
    back = convert(convert(original, name), 'microsoft')
    for key, value in original.items():
        if key.endswith('relative_coords_table'):
            assert torch.equal(back[key], value)
        if key.endswith('relative_position_index'):
            stage = int(key.split('.')[1])
            assert torch.equal(back[key], relative_position_index(windows[stage]))


@pytest.mark.parametrize('name', [n for n in NAMES if n not in TELL_THE_WINDOW])
def test_other_layouts_hold_no_buffers(name):
    assert not any('relative' in key for key in convert(v2_files.random_state_dict(), name))


# --- what is V2's own ----------------------------------------------------------------------------


def test_norms_of_mergings_are_not_reordered():
    original = v2_files.random_state_dict()
    neutral = convert(original, 'openmmlab')
    norm, reduction = 'downsample.norm.weight', 'downsample.reduction.weight'
    assert torch.equal(neutral[f'stages.2.{norm}'], original[f'layers.1.{norm}'])
    theirs = original[f'layers.1.{reduction}'].unflatten(1, (2, 2, 48))  # column, row, channel
    ours = neutral[f'stages.2.{reduction}'].unflatten(1, (48, 2, 2))  # channel, row, column
    assert torch.equal(ours, theirs.permute(0, 3, 2, 1))


def as_before(state_dict: dict) -> dict:
    """Weights as written by version 0.2.0: mergings before their stages, no buffers."""
    return {
        re.sub(
            r'(.*stages\.)(\d)(\.downsample)', lambda m: f'{m[1]}{int(m[2]) - 1}{m[3]}', key
        ): value
        for key, value in informative(state_dict).items()
    }


def test_mergings_of_mmpretrain_and_of_version_0_2():
    original = v2_files.random_state_dict()
    neutral = convert(original, 'openmmlab')
    theirs = convert(original, 'mmpretrain')
    key = 'downsample.reduction.weight'
    for stage in range(3):
        ours = neutral[f'stages.{stage + 1}.{key}']
        assert torch.equal(theirs[f'backbone.stages.{stage + 1}.{key}'], ours)
        assert f'stages.{stage}.{key}' in as_before(neutral)
    assert f'backbone.stages.0.{key}' not in theirs and f'stages.0.{key}' not in neutral
    assert_identical(convert(as_before(neutral), 'openmmlab'), neutral)
    assert_identical(convert(as_before(theirs), 'mmpretrain'), theirs)

    # Its backbone alone, as in a detector's file, and ours in its classifier.
    bare = {k: v for k, v in theirs.items() if k.startswith('backbone.')}
    ours = {f'backbone.{k}': v for k, v in neutral.items()}
    ours |= {k: v for k, v in theirs.items() if k.startswith('head.')}
    for state_dict, layout in ((bare, 'openmmlab'), (ours, 'mmpretrain')):
        assert describe(state_dict).format == layout
        found = convert(state_dict, 'openmmlab')
        assert_identical({k: v for k, v in found.items() if k in neutral}, neutral)


def test_torchvision_has_one_bias_with_zeros_for_the_key():
    original = v2_files.random_state_dict()
    theirs = convert(original, 'torchvision')
    query, key, value = theirs['features.3.0.attn.qkv.bias'].chunk(3)
    assert torch.equal(query, original['layers.1.blocks.0.attn.q_bias'])
    assert torch.equal(value, original['layers.1.blocks.0.attn.v_bias'])
    assert (key == 0).all() and len(key) == 48
    key.fill_(7.0)  # the module zeroes it as it runs
    assert_identical(convert(theirs, 'microsoft'), original)


def test_transformers_has_biases_of_query_and_value():
    original = v2_files.random_state_dict()
    theirs = convert(original, 'transformers')
    at = 'swinv2.encoder.layers.1.blocks.0.attention.self'
    assert torch.equal(theirs[f'{at}.query.bias'], original['layers.1.blocks.0.attn.q_bias'])
    assert torch.equal(theirs[f'{at}.value.bias'], original['layers.1.blocks.0.attn.v_bias'])
    assert f'{at}.key.bias' not in theirs
    key = original['layers.1.blocks.0.attn.qkv.weight'][48:96]
    assert torch.equal(theirs[f'{at}.key.weight'], key)


def test_transformers_has_no_output_norms():
    dropped = []
    original = v2_files.random_state_dict(classification=False)
    theirs = convert(original, 'transformers', dropped=dropped)
    assert dropped == [f'norm{i}.{name}' for i in range(3) for name in ('weight', 'bias')]
    assert torch.equal(theirs['layernorm.weight'], original['norm3.weight'])


def test_the_older_name_of_the_position_network_is_read():
    original = v2_files.random_state_dict()
    older = {k.replace('cpb_mlp', 'rpe_mlp'): v for k, v in original.items()}
    assert describe(older).version == 2
    assert_identical(convert({'model': older}, 'microsoft'), original)


def test_biases_are_optional():
    original = v2_files.random_state_dict()
    without = {k: v for k, v in original.items() if not k.endswith(('q_bias', 'v_bias'))}
    for name in CLASSIFIERS:
        assert_identical(convert(convert(without, name), 'microsoft'), without)


def test_extra_norms_have_no_place_in_other_layouts():
    original = v2_files.random_state_dict(extra_norms=2)
    for name in ('openmmlab', 'mmpretrain', 'microsoft'):
        theirs = convert(original, name)
        assert describe(theirs).extra_norm_every_n_blocks == 2
        back = convert(theirs, 'microsoft')
        key = 'layers.2.blocks.1.enorm.weight'
        assert torch.equal(back[key], original[key])
    for name in HAVE_NO_EXTRA_NORM:
        with pytest.raises(CheckpointError, match=rf"norm3\.\w+ has no place in .*'{name}'"):
            convert(original, name)


@pytest.mark.parametrize('name', ['timm', 'torchvision', 'transformers'])
def test_position_embeddings_without_a_place_are_an_error(name):
    original = v2_files.random_state_dict(ape=torch.randn(1, 64, 24))
    with pytest.raises(CheckpointError, match=f"absolute_pos_embed has no place in .*'{name}'"):
        convert(original, name)


# --- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(('window', 'pretrained'), [(8, 0), (16, 12), (24, 12), (12, 6), (2, 24)])
def test_coords_tables_tell_both_windows(window, pretrained):
    table = v2_files.coordinates(window, pretrained)
    torch.testing.assert_close(table_of(window, pretrained), table)
    assert window_of(table) == window
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert pretrained_window_of(table.to(dtype)) == (pretrained or window)


@pytest.mark.parametrize(
    'table',
    [
        None,
        'text',
        torch.zeros(3),
        torch.zeros(1, 7, 5, 2),
        torch.zeros(1, 6, 6, 2),
        torch.zeros(1, 7, 7, 3),
    ],
    ids=str,
)
def test_invalid_coords_tables_tell_nothing(table):
    assert window_of(table) is None
    assert pretrained_window_of(table) is None


@pytest.mark.parametrize(
    'table',
    [
        torch.full((1, 7, 7, 2), float('nan')),
        torch.full((1, 7, 7, 2), float('inf')),
        torch.full((1, 7, 7, 2), 1e30),
        torch.full((1, 7, 7, 2), 1e-30),
        torch.zeros(1, 7, 7, 2, dtype=torch.long),
        torch.zeros(1, 7, 7, 2, device='meta'),
        torch.zeros(1, 1, 1, 2),
    ],
    ids=['nan', 'inf', 'huge', 'tiny', 'integers', 'meta', 'one token'],
)
def test_coords_tables_with_invalid_values_only_tell_the_window(table):
    assert window_of(table) == (table.shape[1] + 1) // 2
    assert pretrained_window_of(table) is None


@pytest.mark.parametrize('name', NAMES)
def test_descriptions(name):
    windows, pretrained = (8, 8, 8, 4), (6, 6, 6, 3)
    original = v2_files.random_state_dict(windows, pretrained)
    found = describe(convert(original, name))
    assert (found.format, found.version) == (name, 2)
    assert (found.embed_dims, found.depths) == (24, (2, 1, 3, 2))
    assert found.num_heads == (1, 2, 3, 4)
    told = name in TELL_THE_WINDOW
    assert found.window_size == (8 if told else None)
    assert found.pretrained_window_sizes == (pretrained if told else ())
    assert found.extra_norm_every_n_blocks == 0
    assert found.num_classes == (10 if name in CLASSIFIERS else None)


def test_buffers_are_not_counted():
    with_buffers = v2_files.random_state_dict()
    found = describe(with_buffers).parameters
    assert found == describe(informative(with_buffers)).parameters
    outside = ('norm.', 'head.')
    weights = informative(with_buffers).items()
    assert found == sum(v.numel() for k, v in weights if not k.startswith(outside))


def test_torchvision_requires_the_window():
    original = v2_files.random_state_dict()
    weights = informative(original)
    with pytest.raises(CheckpointError, match=r'depend on the window.*window_size='):
        convert(weights, 'torchvision')
    theirs = convert(weights, 'torchvision', window_size=4)
    table = theirs['features.1.0.attn.relative_coords_table']
    torch.testing.assert_close(table, v2_files.coordinates(4))
    index = theirs['features.1.0.attn.relative_position_index']
    assert torch.equal(index, relative_position_index(4).flatten())
    assert_identical(convert(theirs, 'microsoft'), weights)


def test_resizing_keeps_the_windows_of_the_pretraining():
    original = v2_files.random_state_dict()
    theirs = convert(original, 'torchvision', window_size=7)
    table = theirs['features.1.0.attn.relative_coords_table']
    torch.testing.assert_close(table, v2_files.coordinates(7, 4))
    assert describe(theirs).pretrained_window_sizes == (4, 4, 4, 4)
    assert_identical(convert(theirs, 'microsoft'), original)


def test_buffers_are_not_compared():
    original = v2_files.random_state_dict()
    ours = convert(informative(original), 'openmmlab')
    assert compare(original, convert(original, 'timm')).same
    found = compare(
        {k: v for k, v in original.items() if not k.startswith(('norm.', 'head'))}, ours
    )
    assert found.same and found.compared == len(ours)


# --- the official code ---------------------------------------------------------------------------


def test_recorded_files_survive_a_round_trip():
    shapes = RECORDED['microsoft_v2']['shapes'].items()
    official = {k: torch.randn(shape, dtype=torch.float64) for k, shape in shapes}
    description = describe(official)
    assert (description.version, description.format) == (2, 'microsoft')
    assert (description.depths, description.num_heads) == ((1, 1, 1, 1), (1, 2, 3, 4))
    assert (description.window_size, description.num_classes) == (4, 7)
    layout = by_name('microsoft')
    back = layout.from_openmmlab(layout.to_openmmlab(official))
    assert_identical(back, official)
    # Every buffer that the project's strict loading wants is there.
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in official.items()}

"""Weights under any keys: which backbone of a file is taken, and how prefixes select others."""

from __future__ import annotations

import official
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.tools.predictor import load_weights
from swin_backbone.weights import convert, convert_file, describe
from swin_backbone.weights.compare import compare
from swin_backbone.weights.state_dicts import find_backbone

GEOMETRY = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2)
LAYOUTS = ('microsoft', 'openmmlab', 'timm', 'torchvision', 'transformers', 'detectron2')
OPTIMIZER = {'state': {0: {'exp_avg': torch.zeros(2)}}, 'param_groups': [{'params': [0]}]}


def drawn(value: float = 0) -> dict[str, Tensor]:
    weights = official.random_state_dict(8, (1, 1, 1, 1), (1, 1, 2, 2), 2)
    weights['layers.0.blocks.0.attn.qkv.weight'][0, 0] = value
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


WEIGHTS, OTHER = drawn(1), drawn(2)


def below(prefix: str, weights: dict) -> dict:
    return {prefix + key: value for key, value in weights.items()}


def taken(content: dict, **options) -> float:
    """The weights that are taken: 1 for WEIGHTS, 2 for OTHER."""
    contents = find_backbone(content, **options)
    return contents.layout.to_openmmlab(contents.weights)[
        'stages.0.blocks.0.attn.w_msa.qkv.weight'
    ][0, 0].item()


def loaded(path, **options) -> float:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    model = SwinTransformer(**GEOMETRY, init_cfg=init_cfg)
    model.init_weights()
    return model.stages[0].blocks[0].attn.w_msa.qkv.weight[0, 0].item()


# --- one backbone ---------------------------------------------------------------------------------

NAMES = (
    *('state_dict', 'model', 'module', 'model_state_dict', 'net', 'params', 'teacher', 'student'),
    *('generator', 'weights', 'ema', 'model_ema', 'params_ema', 'target_encoder'),
)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('name', NAMES)
def test_a_single_dict_of_weights_is_taken_whatever_its_name(name, layout):
    content = {'epoch': 3, 'optimizer': OPTIMIZER, name: convert(WEIGHTS, layout)}
    assert taken(content) == 1
    assert describe(content).container == name
    assert describe(content).epoch == 3


@pytest.mark.parametrize('prefix', ['model.', 'net.', 'backbone.', 'module.encoder.', 'a.b.c.'])
@pytest.mark.parametrize('path', [(), ('state_dict',), ('a',), ('a', 'b'), ('model', 'backbone')])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_names_before_it_and_dicts_around_it(path, prefix, layout):
    content = below(prefix, convert(WEIGHTS, layout))
    for name in reversed(path):
        content = {name: content, 'iteration': 3}
    assert taken(content) == 1


WRAPPERS = (
    *('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'),
    '_forward_module',
)


@settings(max_examples=60)
@given(
    st.sampled_from(LAYOUTS),
    st.lists(st.sampled_from(WRAPPERS), min_size=1, max_size=3),
    st.sets(st.integers(0, 6), min_size=1),
    st.sampled_from(['', 'backbone.', 'model.backbone.']),
)
def test_wrappers_anywhere_in_the_names(layout, wrappers, places, prefix):
    """Of torch.compile, DDP, FSDP and checkpointing, around the model or around blocks."""

    def wrapped(key: str) -> str:
        parts = key.split('.')
        last = len(parts) - 1  # of what is no module
        for place in sorted((p for p in places if p < last), reverse=True):
            parts[place:place] = wrappers
        return '.'.join(parts)

    weights = below(prefix, convert(WEIGHTS, layout))
    content = {'state_dict': {wrapped(key): value for key, value in weights.items()}}
    assume(content['state_dict'].keys() != weights.keys())
    found = compare(content, weights)
    assert found.same and found.layout_a == layout and found.compared > 60


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_model_takes_wrapped_names(wrapper):
    model = SwinTransformer(**GEOMETRY)
    state_dict = {
        key.replace('blocks.0.', f'blocks.0.{wrapper}.'): torch.full_like(value, 2)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(below(f'{wrapper}.', state_dict))
    assert (model.stages[3].blocks[0].norm2.weight == 2).all()


def test_a_whole_detector_of_any_name(tmp_path):
    """Like the demo page and ``show`` load it."""
    detector = nn.Module()
    detector.backbone, detector.head = SwinTransformer(**GEOMETRY), nn.Linear(2, 2)
    state_dict = {k: torch.full_like(v, 2) for k, v in detector.state_dict().items()}
    compiled = below('_orig_mod.', state_dict)
    for name, weights in (('model_state_dict', state_dict), ('net', compiled), ('', compiled)):
        content = {name: weights, 'meta': {'epoch': 1}} if name else weights
        torch.save(content, tmp_path / 'a.pth')
        for parameter in detector.parameters():
            nn.init.zeros_(parameter)
        load_weights(detector, tmp_path / 'a.pth')
        assert (detector.head.weight == 2).all()
        assert (detector.backbone.norm3.weight == 2).all()


# --- several --------------------------------------------------------------------------------------

SEVERAL = {
    'dicts': {'teacher': below('backbone.', WEIGHTS), 'student': below('backbone.', OTHER)},
    'dicts in dicts': {'teacher': {'backbone': WEIGHTS}, 'student': {'backbone': OTHER}},
    'one dict': {
        'state_dict': below('teacher.backbone.', WEIGHTS) | below('student.backbone.', OTHER)
    },
    'no dict': below('teacher.backbone.', WEIGHTS) | below('student.backbone.', OTHER),
    'dicts in a usual one': {
        'model': {'teacher': below('backbone.', WEIGHTS), 'student': below('backbone.', OTHER)}
    },
    'DDP': {
        'student': below('module.backbone.', OTHER),
        'teacher': below('backbone.', WEIGHTS),
        'dino_loss': {'center': torch.zeros(2)},
    },
}


@pytest.mark.parametrize('content', SEVERAL.values(), ids=SEVERAL)
def test_several_backbones_need_a_prefix(content, tmp_path):
    torch.save({'epoch': 1, 'optimizer': OPTIMIZER, **content}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'student\.backbone\.') as caught:
        loaded(tmp_path / 'a.pth')
    choices = [text for text in str(caught.value).split("'") if text.endswith('.backbone.')]
    assert len(choices) == 2
    for prefix in choices:  # what the error says works
        assert loaded(tmp_path / 'a.pth', prefix=prefix) == (1 if 'teacher' in prefix else 2)
    for prefix in ('teacher.backbone.', 'teacher.backbone', 'teacher', 'teacher.'):
        assert loaded(tmp_path / 'a.pth', prefix=prefix) == 1
    assert loaded(tmp_path / 'a.pth', prefix='student.backbone.') == 2
    convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth', 'timm', prefix='teacher.backbone.')
    assert loaded(tmp_path / 'b.pth') == 1
    described = describe(tmp_path / 'a.pth', prefix='teacher.backbone.')
    assert described.format == 'microsoft' and described.embed_dims == 8


@pytest.mark.parametrize(
    'prefix', ['state_dict.teacher.backbone.', 'state_dict.teacher', 'module.teacher.backbone']
)
def test_a_prefix_may_name_the_dict_as_well(prefix):
    assert taken(SEVERAL['one dict'], prefix=prefix) == 1


def test_the_usual_place_takes_precedence():
    for name in ('state_dict', 'model', 'model_state_dict', 'net', 'params'):
        assert taken({'teacher': OTHER, name: WEIGHTS}) == 1
        assert taken({'teacher': OTHER, name: WEIGHTS}, prefix='teacher') == 2
    assert taken({'state_dict': WEIGHTS, 'net': OTHER}) == 1
    # What only looks like it does not.
    assert taken({'params': {'lr': 0.1}, 'weights': WEIGHTS}) == 1
    assert taken({'model': {'name': 'swin'}, 'best': WEIGHTS}) == 1


def test_networks_beside_their_averages_in_lightnings_files():
    for name in ('model.', 'net.'):
        content = {'state_dict': below(name, WEIGHTS) | below(f'ema_{name}', OTHER)}
        assert taken(content) == 1
        assert taken(content, prefix=f'ema_{name}') == 2


@pytest.mark.parametrize('name', ['state_dict_ema', 'model_ema', 'ema', 'params_ema'])
def test_averages_are_not_a_second_backbone(name):
    content = {'generator': below('backbone.', WEIGHTS), name: below('backbone.', OTHER)}
    for ema, value in ((None, 1), (False, 1), (True, 2)):
        assert taken(content, ema=ema) == value
    assert taken(content, prefix=name) == 2
    nested = {'generator': WEIGHTS, name: {'shadow': {'net': OTHER}}}
    assert taken(nested, ema=True) == 2 and taken(nested) == 1
    with pytest.raises(CheckpointError, match='nothing in it is of a known Swin layout'):
        describe({name: OTHER}, ema=False)


def test_mmengines_averages_in_dicts():
    content = {'state_dict': {'a': WEIGHTS}, 'ema_state_dict': {'a': OTHER}}
    for ema, value in ((None, 1), (True, 1), (False, 2)):
        assert taken(content, ema=ema) == value


def test_an_optimizer_with_the_weights_names_is_not_a_backbone():
    states = {key: {'exp_avg': value} for key, value in WEIGHTS.items()}
    content = {'net_g': WEIGHTS, 'optimizer': {'state': states}, 'optim_states': WEIGHTS}
    assert taken(content) == 1


def test_prefixes_that_lead_nowhere():
    for content, choices in (
        (SEVERAL['dicts'], "'student.backbone.', 'teacher.backbone.'"),
        (SEVERAL['one dict'], "'student.backbone.', 'teacher.backbone.'"),
        ({'state_dict': below('net.', WEIGHTS)}, "'net.'"),
    ):
        with pytest.raises(CheckpointError, match=r"no weights under 'decoder'") as caught:
            find_backbone(content, 'decoder')
        assert str(caught.value).endswith(f'backbones under {choices}')


def test_dicts_within_themselves_and_deep_ones():
    content: dict = {'a': {}, 'weights': WEIGHTS}
    content['a']['a'] = content['a']['b'] = content
    assert taken(content) == 1
    deep: dict = {'weights': WEIGHTS}
    for _ in range(100_000):
        deep = {'a': deep}
    assert find_backbone(deep).layout is None
    for _ in range(100_000):
        deep = deep['a']  # a recursive end would be too deep


# --- any file -------------------------------------------------------------------------------------

names = st.sampled_from(['state_dict', 'model', 'net', 'a', 'b', 'teacher', 'epoch', 'ema', 'x.y'])
prefixes = st.sampled_from(['', 'backbone.', 'net.', 'a.', 'module.', 'teacher.backbone.'])


@settings(max_examples=100)
@given(
    st.dictionaries(
        names,
        st.recursive(
            st.tuples(prefixes, st.integers(1, 2)) | st.none(),
            lambda inner: st.dictionaries(names, inner, max_size=2),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_every_prefix_that_an_error_names_leads_to_a_backbone(tree):
    def made(node):
        if isinstance(node, dict):
            return {name: made(inner) for name, inner in node.items()}
        if node is None:
            return 3
        return below(node[0], WEIGHTS if node[1] == 1 else OTHER)

    content = made(tree)
    try:
        assert find_backbone(content).layout is None or taken(content) in (1, 2)
    except CheckpointError as error:
        quoted = str(error).split("'")[1::2]
        assert 'several backbones' in str(error) and len(set(quoted)) > 1
        for prefix in quoted:
            assert taken(content, prefix=prefix) in (1, 2)

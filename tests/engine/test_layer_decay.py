"""Layer-wise learning-rate decay: every parameter's rate and decay, in detectors and segmentors."""

from __future__ import annotations

import importlib

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from small import SMALL
from torch import nn

from swin_backbone import ArgumentError, SwinTransformer, SwinTransformerV2, configs_dir
from swin_backbone.engine.layer_decay import layer_id

RATE, LR, DECAY = 0.8, 1e-3, 0.05
TYPE = 'swin_backbone.engine.layer_decay.SwinLayerDecayConstructor'
LITTLE = dict(arch=None, embed_dims=24, depths=(1, 2, 3, 1), num_heads=(1, 2, 3, 4), init_cfg=None)
WIDTHS = [24, 48, 96, 192]
# Of the backbone above, which has 7 blocks: by hand, the exponent of the rate.
EXPONENTS = {
    'patch_embed.projection.weight': 8,
    'patch_embed.norm.bias': 8,
    'stages.0.blocks.0.attn.w_msa.qkv.weight': 7,
    'stages.0.downsample.reduction.weight': 7,
    'norm0.weight': 6,
    'stages.1.blocks.0.norm1.weight': 6,
    'stages.1.blocks.1.ffn.layers.1.weight': 5,
    'stages.1.downsample.norm.weight': 5,
    'stages.2.blocks.0.attn.w_msa.relative_position_bias_table': 4,
    'stages.2.blocks.2.ffn.layers.0.0.bias': 2,
    'norm2.bias': 1,
    'stages.2.downsample.reduction.weight': 2,
    'stages.3.blocks.0.attn.w_msa.proj.weight': 1,
    'norm3.weight': 0,
}


def settings(**paramwise) -> dict:
    optimizer = dict(type='AdamW', lr=LR, weight_decay=DECAY)
    return dict(
        constructor=TYPE, optimizer=optimizer, paramwise_cfg=dict(decay_rate=RATE) | paramwise
    )


def grouped(model: nn.Module, cfg: dict) -> dict[str, tuple[float, float]]:
    """Each parameter's rate as a multiple of the base rate, and its weight decay."""
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], group['lr'] / LR, group['weight_decay'])
        for group in groups
        for parameter in group['params']
    ]
    assert len(found) == len({name for name, *_ in found})  # none twice
    distinct = {tuple((k, v) for k, v in g.items() if k != 'params') for g in groups}
    assert len(distinct) == len(groups)  # none that could be one
    return {name: (rate, decay) for name, rate, decay in found}


@pytest.fixture(scope='module', params=['mask_rcnn_swin_t_coco', 'upernet_swin_t_ade20k'])
def model(request) -> nn.Module:
    config = Config.fromfile(configs_dir() / f'{request.param}.py')
    init_default_scope(config.default_scope)
    config.model.backbone.update(LITTLE)
    if 'neck' in config.model:
        config.model.neck.in_channels = WIDTHS
    else:
        config.model.decode_head.in_channels = WIDTHS
        config.model.auxiliary_head.in_channels = WIDTHS[2]
    with torch.device('meta'):
        return MODELS.build(config.model)


def test_every_parameter_of_a_model_has_its_rate_and_decay(model):
    found = grouped(model, settings())
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        rate, decay = found[name]
        spared = parameter.ndim == 1 or name.endswith('relative_position_bias_table')
        assert decay == (0 if spared else DECAY), name
        if not name.startswith('backbone.'):
            assert rate == 1, name
    for name, exponent in EXPONENTS.items():
        assert found[f'backbone.{name}'][0] == pytest.approx(RATE**exponent), name
    # Two for a layer, at most: 7 blocks, the embedding, and what follows.
    assert len(set(found.values())) <= 2 * 9


@pytest.mark.parametrize('name', ['mask_rcnn_swin_t_coco', 'upernet_swin_t_ade20k'])
def test_switched_on_in_a_recipe(name, tmp_path):
    """By the block of docs/configs.md, beside what the recipe says itself."""
    file = tmp_path / 'user.py'
    file.write_text(
        f'_base_ = {str(configs_dir() / name) + ".py"!r}\n'
        f'optim_wrapper = dict(constructor={TYPE!r}, paramwise_cfg=dict(decay_rate={RATE}))\n'
    )
    config = Config.fromfile(file)
    init_default_scope(config.default_scope)
    lr, decay = (config.optim_wrapper.optimizer[key] for key in ('lr', 'weight_decay'))
    model = detector(depths=(2, 2, 6, 2))
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    first = model.backbone.stages[0].blocks[0]
    assert found[id(first.norm1.weight)] == (pytest.approx(lr * RATE**12), 0)
    assert found[id(first.attn.w_msa.qkv.weight)] == (pytest.approx(lr * RATE**12), decay)
    assert found[id(model.head.weight)] == (lr, decay)


@pytest.mark.parametrize('name', EXPONENTS)
def test_layer_by_name(name):
    assert layer_id(name, LITTLE['depths']) == 8 - EXPONENTS[name]


def test_mergings_that_open_a_stage_belong_to_the_block_before_them():
    model = nn.Module()
    arguments = {k: v for k, v in LITTLE.items() if k not in ('arch', 'init_cfg')}
    model.backbone = SwinTransformerV2(**arguments)
    found = grouped(model, settings())
    for i, block in enumerate([0, 1, 2], 1):
        merging = found[f'backbone.stages.{i}.downsample.reduction.weight'][0]
        before = found[f'backbone.stages.{i - 1}.blocks.{block}.attn.w_msa.qkv.weight'][0]
        assert merging == before
    assert layer_id('stages.1.downsample.norm.weight', (1, 2, 3, 1), True) == 1


def test_other_names():
    assert layer_id('absolute_pos_embed', (2, 2)) == 0
    assert layer_id('some_later_layer.weight', (2, 2)) == 5


class FakeV2(nn.Module):
    """The names of Swin V2's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4)
        self.stages = nn.ModuleList()
        for _ in range(2):
            attention = nn.Module()
            attention.logit_scale = nn.Parameter(torch.zeros(2, 1, 1))
            attention.q_bias = nn.Parameter(torch.zeros(8))
            attention.v_bias = nn.Parameter(torch.zeros(8))
            attention.qkv = nn.Linear(8, 24, bias=False)
            attention.cpb_mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
            block = nn.ModuleDict({'attn': nn.ModuleDict({'w_msa': attention})})
            self.stages.append(nn.ModuleDict({'blocks': nn.ModuleList([block])}))


def test_v2_is_not_decayed_where_the_official_code_does_not():
    model = nn.ModuleDict({'deep': nn.ModuleDict({'down': FakeV2()}), 'head': nn.Linear(8, 2)})
    found = grouped(model, settings())
    block = 'deep.down.stages.1.blocks.0.attn.w_msa'
    for name in ('logit_scale', 'q_bias', 'v_bias', 'cpb_mlp.0.weight', 'cpb_mlp.2.weight'):
        assert found[f'{block}.{name}'] == (pytest.approx(RATE), 0)
    assert found[f'{block}.qkv.weight'] == (pytest.approx(RATE), DECAY)
    assert found['deep.down.patch_embed.weight'] == (pytest.approx(RATE**3), DECAY)
    assert found['head.weight'] == (1, DECAY)


def detector(**backbone) -> nn.Module:
    model = nn.Module()
    model.backbone = SwinTransformer(**SMALL | backbone)
    model.head = nn.Linear(4, 4)
    return model


def test_multiplies_with_custom_keys():
    keys = dict(
        backbone=dict(lr_mult=0.1),
        norm=dict(lr_mult=0.5, decay_mult=1.0),
        head=dict(lr_mult=10.0, decay_mult=2.0),
    )
    found = grouped(detector(), settings(custom_keys=keys))
    assert found['backbone.patch_embed.projection.weight'] == (
        pytest.approx(0.1 * RATE**9),
        DECAY,
    )
    # Of the keys that are in a name mmengine takes the longest.
    assert found['backbone.norm3.weight'] == (pytest.approx(0.1), 0)
    assert found['head.weight'] == (pytest.approx(10), 2 * DECAY)


def test_honours_mmengines_other_options():
    found = grouped(detector(), settings(bias_lr_mult=2.0))
    assert found['head.bias'] == (2, 0)
    assert found['backbone.stages.3.blocks.1.attn.w_msa.proj.bias'] == (
        pytest.approx(2 * RATE),
        0,
    )


def test_frozen_stages_are_left_out_and_do_not_shift_the_others():
    found, all_of_them = (grouped(detector(frozen_stages=n), settings()) for n in (1, -1))
    assert not any(n.startswith(('backbone.patch_embed', 'backbone.stages.0')) for n in found)
    assert found == {name: all_of_them[name] for name in found}


def test_position_embedding_is_of_the_first_layer_and_not_decayed():
    found = grouped(detector(use_abs_pos_embed=True, pretrain_img_size=32), settings())
    assert found['backbone.absolute_pos_embed'] == (pytest.approx(RATE**9), 0)


def test_blocks_that_no_output_depends_on_do_not_count():
    found = grouped(detector(out_indices=(1, 2)), settings())
    assert found['backbone.stages.2.blocks.1.attn.w_msa.qkv.weight'][0] == pytest.approx(RATE)
    assert found['backbone.norm2.weight'][0] == 1


def test_wrapped_model_is_seen_through():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = detector()
    wrapped = grouped(Wrapper(model), settings())
    assert {n.removeprefix('module.'): s for n, s in wrapped.items()} == grouped(model, settings())


def test_a_step_moves_each_layer_by_its_rate():
    """Adam's first step moves by the learning rate wherever there is a gradient."""
    model = detector()
    cfg = settings()
    cfg['optimizer'].update(weight_decay=0.0, eps=1e-20)
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    outputs = model.backbone(torch.randn(1, 3, 64, 64))
    wrapper.update_params(sum(out.square().mean() for out in outputs))
    for name, scale in (('patch_embed.projection.weight', RATE**9), ('norm3.bias', 1.0)):
        moved = (model.get_parameter(f'backbone.{name}') - before[f'backbone.{name}']).abs()
        assert moved.median().item() == pytest.approx(LR * scale, rel=1e-3)


@pytest.mark.parametrize('rate', [None, 0, -0.5, 1.5, '0.9'])
def test_wrong_rate_is_named(rate):
    with pytest.raises(ArgumentError, match=r'decay_rate=.* must be a number above 0'):
        build_optim_wrapper(detector(), settings(decay_rate=rate))


def test_other_errors():
    with pytest.raises(ArgumentError, match=r'Linear has no Swin backbone'):
        build_optim_wrapper(nn.Linear(2, 2), settings())
    with pytest.raises(ArgumentError, match=r'num_layers=12, but the backbone has 8 blocks'):
        build_optim_wrapper(detector(), settings(num_layers=12))
    with pytest.raises(ArgumentError, match="decay_type='stage_wise'"):
        build_optim_wrapper(detector(), settings(decay_type='stage_wise'))
    cfg = settings()
    del cfg['optimizer']['lr']
    with pytest.raises(ArgumentError, match='must have lr='):
        build_optim_wrapper(detector(), cfg)


class ConvNeXt(nn.Module):
    """The names that the frameworks' constructors know."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([nn.Conv2d(3, 4, 1)])
        self.stages = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4)]) for _ in range(4)])


THEIRS = [
    ('mmdet', 'LearningRateDecayOptimizerConstructor'),
    ('mmseg', 'LearningRateDecayOptimizerConstructor'),
    ('mmseg', 'LayerDecayOptimizerConstructor'),
]


def by_theirs(scope: str, name: str, backbone: nn.Module, constructor=None):
    """An optimizer's groups, by a framework's constructor: the registered one, or the given."""
    init_default_scope(scope)
    rate = dict(layer_decay_rate=0.7) if name.startswith('LayerDecay') else dict(decay_rate=0.7)
    model = nn.Module()
    model.backbone = backbone
    cfg = settings(num_layers=6) | dict(constructor=constructor or name, type='OptimWrapper')
    cfg['paramwise_cfg'] = dict(num_layers=6, **rate)
    return build_optim_wrapper(model, cfg).optimizer.param_groups


@pytest.mark.filterwarnings('ignore:DeprecationWarning')
@pytest.mark.parametrize(('scope', 'name'), THEIRS)
def test_the_frameworks_constructors_name_ours_for_swin_alone(scope, name):
    with pytest.raises(NotImplementedError, match=f"optim_wrapper.constructor='{TYPE}'"):
        by_theirs(scope, name, SwinTransformer(**SMALL))
    with pytest.raises(NotImplementedError, match=r'^$'):
        by_theirs(scope, name, nn.Linear(4, 4))
    module = f'{scope}.engine.optimizers.layer_decay_optimizer_constructor'
    theirs = getattr(importlib.import_module(module), name)
    torch.manual_seed(0)
    found, wanted = (by_theirs(scope, name, ConvNeXt(), one) for one in (None, theirs))
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(name) is not theirs
    assert [group['lr'] for group in found] == [group['lr'] for group in wanted]
    assert [group['param_names'] for group in found] == [g['param_names'] for g in wanted]


def test_what_the_frameworks_constructors_require_may_be_there():
    cfg = settings(num_layers=8, decay_type='layer_wise')
    assert grouped(detector(), cfg) == grouped(detector(), settings())

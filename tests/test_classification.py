"""The backbone with mmpretrain's arguments; within mmpretrain in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import official
import peers
import pytest
import torch
from small import SMALL, randomized
from torch import nn

from swin_backbone import ArgumentError, SwinTransformer, SwinTransformerV2
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)

HERE = Path(__file__).parent
ARCH = {name: SMALL[name] for name in ('embed_dims', 'depths', 'num_heads')}
KINDS = [ClassificationSwinTransformer, ClassificationSwinTransformerV2]
OPTIONS = '-q -p with_mmpretrain -p no:xdist -p no:cacheprovider --noconftest'
needs_mmpretrain = pytest.mark.skipif(
    not peers.APART.is_dir(), reason=f'no {peers.APART}: requirements/set_up.sh makes it'
)


@needs_mmpretrain
def test_within_mmpretrain():
    """Everything in mmpretrain_checks.py."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
    checks = [str(HERE / 'mmpretrain_checks.py'), *OPTIONS.split()]
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'pytest', *checks],
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert ' passed' in done.stdout and 'skipped' not in done.stdout


def build(**arguments) -> ClassificationSwinTransformer:
    return ClassificationSwinTransformer(ARCH, window_size=4, **arguments).eval()


def test_defaults_are_a_classifiers():
    with torch.device('meta'):
        model = ClassificationSwinTransformer()
        (out,) = model(torch.empty(1, 3, 224, 224))
    assert out.shape == (1, 768, 7, 7)
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert not any(block.attn.pad_small_map for block in blocks)
    rates = [block.attn.drop.drop_prob for block in blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


@pytest.mark.parametrize('arch, width', [('Tiny', 768), ('small', 768), ('B', 1024), ('l', 1536)])
def test_variants(arch, width):
    with torch.device('meta'):
        outs = ClassificationSwinTransformer(arch, out_indices=(2, 3))(torch.empty(1, 3, 224, 224))
    assert [tuple(out.shape) for out in outs] == [(1, width // 2, 14, 14), (1, width, 7, 7)]


@pytest.mark.parametrize('kind', [ClassificationSwinTransformer, ClassificationSwinTransformerV2])
def test_outputs_are_a_tuple_as_in_mmpretrain(kind):
    assert type(kind(ARCH, window_size=4)(torch.randn(1, 3, 128, 128))) is tuple


def test_small_maps_are_not_shifted():
    x = torch.randn(1, 3, 128, 128)  # the last map is one window
    model = randomized(build())
    as_detector = SwinTransformer(**SMALL, out_indices=(3,)).eval()
    as_detector.load_state_dict(model.state_dict())
    assert (model(x)[0] - as_detector(x)[0]).abs().max() > 1e-3
    as_detector = ClassificationSwinTransformer(ARCH, window_size=4, pad_small_map=True).eval()
    as_detector.load_state_dict(model.state_dict())
    assert (model(x)[0] - as_detector(x)[0]).abs().max() > 1e-3


def test_takes_the_norm_before_the_classifier(tmp_path):
    weights = official.random_state_dict(24, num_heads=SMALL['num_heads'], classification=True)
    torch.save(weights, tmp_path / 'file.pth')
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth')))
    model.init_weights()
    torch.testing.assert_close(model.norm3.weight, weights['norm.weight'].float())
    other = build()
    other.load_state_dict(weights, strict=True)
    torch.testing.assert_close(other.norm3.bias, weights['norm.bias'].float())


@pytest.mark.parametrize(
    'settings, name, value',
    [
        (dict(block_cfgs=dict(window_size=6)), 'window_size', 6),
        (dict(window_size=6), 'window_size', 6),
        ([dict(block_cfgs=[dict(window_size=6)] * 2)] * 4, 'window_size', 6),
        (dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False))), 'qkv_bias', False),
        (dict(with_cp=True, downsample_cfg=dict(kernel_size=2)), 'with_cp', True),
    ],
)
def test_stage_settings_are_the_backbones_arguments(settings, name, value):
    plain = SwinTransformer(**{**SMALL, name: value}, out_indices=(3,), pad_small_map=False)
    model = build(stage_cfgs=settings)
    assert repr(model.stages) == repr(plain.stages)
    assert model.stages[0].with_cp == plain.stages[0].with_cp
    assert [block.attn.window_size for block in model.stages[0].blocks] == [
        block.attn.window_size for block in plain.stages[0].blocks
    ]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(stage_cfgs=dict(depth=3)), r'stage_cfgs: depth=3 has no counterpart'),
        (
            dict(stage_cfgs=dict(downsample_cfg=dict(kernel_size=3))),
            r'stage_cfgs\.downsample_cfg: kernel_size=3 .*kernel_size=2 or',
        ),
        (
            dict(stage_cfgs=dict(block_cfgs=dict(ffn_cfgs=dict(num_fcs=3)))),
            r'stage_cfgs\.block_cfgs\.ffn_cfgs: num_fcs=3',
        ),
        (dict(stage_cfgs=[dict(window_size=4), {}, {}, {}]), 'stages and blocks are alike'),
        (dict(patch_cfg=dict(norm_cfg=None)), 'patch_cfg: norm_cfg=None'),
        (dict(out_after_downsample=True), 'out_after_downsample'),
        (dict(interpolate_mode='nearest'), "interpolate_mode='nearest' must be 'bicubic'"),
        (dict(embed_dims=8), 'contradicts arch'),
    ],
)
def test_what_has_no_counterpart_is_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        build(**arguments)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'arch, message',
    [
        ('tini', "not in default archs; did you mean 'tiny'?"),
        (dict(embed_dims=96, depths=[2, 2, 18, 2]), 'Custom arch needs .* depths, num_heads'),
    ],
)
def test_wrong_variants_are_assertion_errors_too(kind, arch, message):
    with pytest.raises(AssertionError, match=message):
        kind(arch)


def test_arguments_by_position():
    values = ARCH, 48, 2, 1, 4, 0.1, 0.2, (1, 3), False, True, 'bicubic', True, 1, True, True, None
    model = ClassificationSwinTransformer(*values)
    assert model.patch_embed.projection.weight.shape == (24, 1, 2, 2)
    assert model.absolute_pos_embed.shape == (1, 24 * 24, 24)
    assert model.drop_after_pos.p == 0.1 and model.out_indices == (1, 3)
    assert model.frozen_stages == 1 and model.norm_eval
    last = model.stages[3].blocks[1]
    assert last.with_cp and last.attn.pad_small_map and last.attn.window_size == 4
    assert last.attn.drop.drop_prob == pytest.approx(0.2)
    assert isinstance(model.norm3, nn.Identity)

    values = *values[:8], *values[9:], {}, {}, (0, 0, 0, 8)
    model = ClassificationSwinTransformerV2(*values)
    assert model.use_abs_pos_embed and model.frozen_stages == 1
    assert model.stages[3].blocks[1].attn.w_msa.pretrained_window_size == 8


@pytest.mark.parametrize('kind', KINDS)
def test_arguments_given_twice_or_too_many(kind):
    with pytest.raises(TypeError, match='img_size both by position and by name'):
        kind(ARCH, 64, img_size=64)
    with pytest.raises(ArgumentError, match='two names of one argument'):
        kind(ARCH, 64, pretrain_img_size=32)
    with pytest.raises(TypeError, match='takes up to 19 arguments, got 20'):
        kind(*[None] * 20)


@pytest.mark.parametrize('kind', KINDS)
def test_a_square_window_may_be_written_as_two_sides(kind):
    for given in (
        dict(window_size=(4, 4)),
        dict(stage_cfgs=dict(block_cfgs=dict(window_size=[4, 4]))),
    ):
        model = kind(ARCH, 64, out_indices=(-1,), **given)
        assert model.window_size == 4 and model.out_indices == (3,)
        assert {block.attn.window_size for stage in model.stages for block in stage.blocks} == {4}
    assert getattr(model, 'window_sizes', [4] * 4) == [4] * 4
    with pytest.raises(ArgumentError, match='windows must be square'):
        kind(ARCH, 64, window_size=(4, 8))


@pytest.mark.parametrize('kind', KINDS)
def test_variants_are_read_as_mmpretrains(kind):
    model = kind('T', 250, window_size=4)
    assert model.arch_settings.items() >= kind.arch_zoo['tiny'].items()
    assert (model.embed_dims, model.num_layers, model.num_extra_tokens) == (96, 4, 0)
    assert model.depths == [2, 2, 6, 2] and model.num_heads == [3, 6, 12, 24]
    assert model.patch_resolution == (63, 63) and model.interpolate_mode == 'bicubic'


def test_v2_tells_its_windows_and_extra_norms():
    zoo = ClassificationSwinTransformerV2.arch_zoo
    assert zoo['huge']['extra_norm_every_n_blocks'] == 6
    assert zoo['large']['extra_norm_every_n_blocks'] == 0
    settings = dict(extra_norm_every_n_blocks=2)
    model = ClassificationSwinTransformerV2(ARCH, window_size=[8, 8, 8, 4], stage_cfgs=settings)
    assert model.window_sizes == [8, 8, 8, 4]
    assert model.extra_norm_every_n_blocks == 2
    assert model.arch_settings['extra_norm_every_n_blocks'] == 2
    assert ClassificationSwinTransformerV2(ARCH).window_sizes == [8] * 4


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(30, 22), 30])
def test_position_embedding_covers_images_of_no_whole_patches(kind, size):
    model = kind(ARCH, size, window_size=4, use_abs_pos_embed=True, pad_small_map=True)
    assert model.patch_resolution == model.pretrain_grid == (8, 6 if size == (30, 22) else 8)
    rows, columns = model.patch_resolution
    assert model.absolute_pos_embed.shape == (1, rows * columns, 24)
    out = randomized(model).eval()(torch.randn(1, 3, 30, 22))[0]
    assert out.shape == (1, 192, 1, 1) and torch.isfinite(out).all()


# --- small maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_maps_smaller_than_the_window_are_errors(kind):
    model = kind(ARCH, window_size=4)
    assert model.eval()(torch.randn(1, 3, 128, 130))[0].shape == (1, 192, 4, 5)
    expected = (
        r'a map of 4×3 tokens .* the window size \(4\); set pad_small_map=True, .* window_size'
    )
    for mode in (True, False):
        with pytest.raises(ArgumentError, match=expected):
            model.train(mode)(torch.randn(1, 3, 128, 96))
    with pytest.raises(ArgumentError, match='a map of 3×3'):
        shallow = kind({**ARCH, 'depths': (1, 1, 1, 1)}, window_size=4)
        torch.compile(shallow, backend='eager')(torch.randn(1, 3, 96, 96))
    padded = kind(ARCH, window_size=4, pad_small_map=True)
    assert padded.eval()(torch.randn(1, 3, 128, 96))[0].shape == (1, 192, 4, 3)


@pytest.mark.parametrize('kind', [SwinTransformer, SwinTransformerV2])
def test_windows_of_the_other_classes_still_shrink(kind):
    model = kind(**SMALL, out_indices=(3,), pad_small_map=False)
    assert model(torch.randn(1, 3, 128, 96))[0].shape == (1, 192, 4, 3)


# --- freezing -------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('frozen', [-1, 0, 2, 3])
def test_frozen_stages_count_from_zero(kind, frozen):
    model = kind(
        *(ARCH, 32),
        frozen_stages=frozen,
        window_size=4,
        drop_rate=0.1,
        use_abs_pos_embed=True,
        out_indices=(0, 1, 2, 3),
    )
    for _ in range(2):  # in force before train() and after it
        assert model.frozen_stages == frozen
        assert model.absolute_pos_embed.requires_grad and model.drop_after_pos.training
        for module, frozen_too in [
            (model.patch_embed, frozen >= 0),
            *[(stage, i <= frozen) for i, stage in enumerate(model.stages)],
        ]:
            assert module.training != frozen_too
            assert all(p.requires_grad != frozen_too for p in module.parameters())
        for i in range(4):
            norm = getattr(model, f'norm{i}')
            assert norm.training and norm.weight.requires_grad == (i > frozen)
        model.train()


def test_frozen_stages_that_are_too_many():
    with pytest.raises(ArgumentError, match=r'frozen_stages=4 must be .* no more than 3'):
        build(frozen_stages=4)


# --- norms ----------------------------------------------------------------------------------------


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    return {k: m for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize('kind', KINDS)
def test_batch_norms_of_blocks_and_outputs(kind):
    settings = dict(block_cfgs=dict(norm_cfg=dict(type='BN')))
    model = kind(ARCH, norm_cfg=dict(type='BN'), stage_cfgs=settings, norm_eval=True)
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert len(batch_norms(model)) == 2 * len(blocks) + 1  # none in embedding and mergings
    assert blocks[-1].norm1.num_features == model.norm3.num_features == 192
    for _ in range(2):
        assert not any(norm.training for norm in batch_norms(model).values())
        assert model.training and blocks[0].attn.training
        model.train()
    model = kind(ARCH, norm_cfg=dict(type='BN'), stage_cfgs=settings)
    assert all(norm.training for norm in batch_norms(model.train()).values())
    with pytest.raises(ArgumentError, match=r'BatchNorm2d normalises maps .* tokens \(B, L, C\)'):
        model(torch.randn(1, 3, 256, 256))


def test_batch_norms_of_stages_that_no_output_needs_are_no_parameters():
    settings = dict(block_cfgs=dict(norm_cfg=dict(type='BN')))
    model = build(out_indices=(1,), stage_cfgs=settings, frozen_stages=0)
    names = {name for name, _ in model.named_parameters() if name.startswith('stages')}
    assert {name.split('.')[1] for name in names} == {'0', '1'}
    assert 'stages.3.blocks.0.norm1.weight' in model.state_dict()
    assert not model.stages[0].blocks[0].norm1.weight.requires_grad


@pytest.mark.parametrize('kind', KINDS)
def test_layer_norms_of_blocks_with_settings(kind):
    settings = dict(block_cfgs=dict(norm_cfg=dict(type='LN', eps=0.1)))
    model = randomized(kind(ARCH, window_size=4, stage_cfgs=settings).double().eval())
    assert model.patch_embed.norm.eps == model.norm3.eps == 1e-5
    assert {block.norm2.eps for stage in model.stages for block in stage.blocks} == {0.1}
    plain = kind(ARCH, window_size=4).double().eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    assert (model(x)[0] - plain(x)[0]).abs().max() > 1e-3


def test_batch_norm_is_refused_in_detectors():
    with pytest.raises(ArgumentError, match='normalises maps'):
        SwinTransformer(**SMALL, norm_cfg=dict(type='BN'))


# --- first weights --------------------------------------------------------------------------------

KAIMING = dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear')


@pytest.mark.parametrize('init_cfg', [None, [], KAIMING, [KAIMING]])
@pytest.mark.parametrize(
    'kind', [*KINDS, SwinTransformer, SwinTransformerV2], ids=lambda kind: kind.__name__
)
def test_what_is_no_layers_is_drawn_whatever_the_initialisers(kind, init_cfg):
    arguments = dict(SMALL, pretrain_img_size=64, use_abs_pos_embed=True, init_cfg=init_cfg)
    model = kind(**arguments)
    before = model.patch_embed.projection.weight.clone()
    assert not model.absolute_pos_embed.any()
    model.init_weights()
    drawn = [model.absolute_pos_embed]
    drawn += [p for k, p in model.named_parameters() if k.endswith('bias_table')]
    assert all(0.012 < p.std() < 0.03 and p.abs().max() <= 2 for p in drawn)
    redrawn = not torch.equal(model.patch_embed.projection.weight, before)
    assert redrawn == bool(init_cfg)


def test_initialisers_beside_a_checkpoint_leave_its_position_embedding(tmp_path):
    arguments = dict(SMALL, pretrain_img_size=64, use_abs_pos_embed=True)
    weights = randomized(SwinTransformer(**arguments)).state_dict()
    torch.save(weights, tmp_path / 'file.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    model = SwinTransformer(**arguments, init_cfg=[KAIMING, pretrained])
    model.init_weights()
    assert torch.equal(model.absolute_pos_embed, weights['absolute_pos_embed'])
    model.init_weights()  # once more changes nothing
    assert torch.equal(model.absolute_pos_embed, weights['absolute_pos_embed'])


@pytest.mark.parametrize('kind', KINDS)
def test_layers_are_left_to_the_classifiers_initialisers(kind):
    model = kind(ARCH)
    layers = {k: p.clone() for k, p in model.named_parameters() if '.ffn.' in k or '.proj.' in k}
    model.init_weights()
    found = dict(model.named_parameters())
    assert layers and all(torch.equal(found[k], p) for k, p in layers.items())
    first = model.stages[0].blocks[0].norm1.weight
    if kind is ClassificationSwinTransformerV2:  # at first each block is the identity
        assert not first.any()
    else:
        assert torch.equal(first, torch.ones(24))


@pytest.mark.parametrize(
    'name, depth',
    [
        ('patch_embed.projection.weight', 0),
        ('stages.0.blocks.0.norm1.weight', 1),
        ('stages.0.blocks.1.ffn.layers.1.bias', 2),
        ('stages.0.downsample.reduction.weight', 2),
        ('stages.3.blocks.1.attn.w_msa.qkv.weight', 8),
        ('norm3.weight', 9),
    ],
)
def test_layer_depth(name, depth):
    model = build()
    assert model.get_layer_depth(name) == (depth, 10)
    assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == (depth, 10)
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (9, 10)


def test_layer_depth_of_v2s_mergings_is_the_block_before_thems():
    model = ClassificationSwinTransformerV2(ARCH, window_size=4)
    depths = [model.get_layer_depth(f'stages.{i}.downsample.norm.bias')[0] for i in (1, 2, 3)]
    assert depths == [2, 4, 6]
    assert model.get_layer_depth('stages.1.blocks.0.norm1.bias') == (3, 10)


def test_v2_has_mmpretrains_defaults():
    with torch.device('meta'):
        model = ClassificationSwinTransformerV2('tiny', use_abs_pos_embed=True)
        (out,) = model(torch.empty(1, 3, 256, 256))
    assert out.shape == (1, 768, 8, 8)
    assert model.absolute_pos_embed.shape == (1, 64 * 64, 96)
    assert {block.attn.window_size for stage in model.stages for block in stage.blocks} == {8}


def test_v2_takes_its_own_stage_settings():
    settings = dict(extra_norm_every_n_blocks=2, downsample_cfg=dict(use_post_norm=True))
    model = ClassificationSwinTransformerV2(ARCH, window_size=4, stage_cfgs=settings)
    plain = SwinTransformerV2(
        **SMALL, out_indices=(3,), extra_norm_every_n_blocks=2, pretrain_img_size=256
    )
    assert repr(model.stages) == repr(plain.stages)
    with pytest.raises(ArgumentError, match='use_post_norm=False'):
        ClassificationSwinTransformerV2(
            ARCH, stage_cfgs=dict(downsample_cfg=dict(use_post_norm=False))
        )

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

from swin_backbone import ArgumentError, SwinTransformer, SwinTransformerV2
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)

HERE = Path(__file__).parent
ARCH = {name: SMALL[name] for name in ('embed_dims', 'depths', 'num_heads')}
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
    assert type(kind(ARCH, window_size=4)(torch.randn(1, 3, 64, 64))) is tuple


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


@pytest.mark.parametrize('arch', ['unknown', dict(embed_dims=96, depths=[2, 2, 18, 2])])
def test_wrong_variants_are_assertion_errors_too(arch):
    with pytest.raises(AssertionError):
        ClassificationSwinTransformer(arch)


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

"""Loading files of Swin V2: layouts, versions, windows, and files that do not fit."""

from __future__ import annotations

import logging
import re

import official
import official_v2
import pytest
import torch
import v2_files
from mmengine.runner import load_checkpoint
from torch import nn

from swin_backbone import CheckpointError, SwinTransformer, SwinTransformerV2
from swin_backbone.weights import convert, describe, load, what_would_be_resized
from swin_backbone.weights.formats import FORMATS

NAMES = [layout.name for layout in FORMATS]
DETECTORS = ('openmmlab', 'detectron2')
V1 = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)


def model(**arguments) -> SwinTransformerV2:
    return SwinTransformerV2(**{**v2_files.GEOMETRY, **arguments}).double().eval()


def assert_gives_official_features(backbone, state_dict, windows=(4,) * 4, pretrained=(0,) * 4):
    x = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    neutral = convert(state_dict, 'openmmlab')
    expected = official_v2.forward(neutral, x, windows, pretrained)
    for i, (out, features) in enumerate(zip(backbone(x), expected, strict=True)):
        if f'norm{i}.weight' not in neutral:  # it is as constructed
            features = features.permute(0, 2, 3, 1)
            features = nn.functional.layer_norm(features, features.shape[-1:])
            features = features.permute(0, 3, 1, 2)
        torch.testing.assert_close(out, features, rtol=1e-10, atol=1e-10)


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """Warnings of loading."""
    told = []

    def keep(message, logger=None, level=logging.INFO):
        if level >= logging.WARNING:
            told.append(message)

    monkeypatch.setattr(load, 'print_log', keep)
    return told


# --- layouts -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('name', NAMES)
def test_every_layout_loads_strictly_from_memory_and_file(name, tmp_path, warned):
    original = v2_files.random_state_dict(classification=name not in DETECTORS)
    theirs = convert(original, name)
    from_memory = model()
    result = from_memory.load_state_dict(theirs, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    torch.save({'model': theirs}, tmp_path / 'file.pth')
    from_file = model(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth')))
    from_file.init_weights()
    if name == 'mmpretrain':  # which has the classifier's norm as the last output's
        original |= {f'norm3.{k}': original[f'norm.{k}'] for k in ('weight', 'bias')}
    assert_gives_official_features(from_memory, original)
    for key, value in from_memory.state_dict().items():
        assert torch.equal(from_file.state_dict()[key], value)
    assert not warned


@torch.no_grad()
def test_files_of_version_0_2_load(tmp_path, warned):
    """They have mergings before their stages, and no buffers."""
    original = v2_files.random_state_dict(classification=False)
    before = {
        re.sub(r'^stages\.(\d)\.down', lambda m: f'stages.{int(m[1]) - 1}.down', key): value
        for key, value in convert(original, 'openmmlab').items()
        if 'relative' not in key
    }
    assert 'stages.0.downsample.norm.weight' in before
    from_memory, detector = model(), nn.Module()
    from_memory.load_state_dict(before, strict=True)
    assert_gives_official_features(from_memory, original)
    torch.save({'state_dict': before}, tmp_path / 'file.pth')
    from_file = model(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth')))
    from_file.init_weights()
    assert_gives_official_features(from_file, original)
    detector.backbone = model(out_indices=(0, 1))
    whole = {f'backbone.{key}': v for key, v in before.items() if not key.startswith('norm')}
    whole |= {
        f'backbone.{key}': v for key, v in before.items() if key.startswith(('norm0', 'norm1'))
    }
    torch.save({'state_dict': whole, 'meta': {}}, tmp_path / 'detector.pth')
    load_checkpoint(detector, str(tmp_path / 'detector.pth'), strict=True)
    x = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    for out, expected in zip(detector.backbone(x), from_memory(x), strict=False):
        assert torch.equal(out, expected)
    assert not warned


def test_an_optimizers_state_of_version_0_2_is_of_the_same_weights():
    """It depends on the order of the parameters: mergings are between the stages, as before."""
    names = [name for name, _ in model().named_parameters() if name.startswith('stages.')]
    stages = [int(name.split('.')[1]) for name in names]
    assert stages == sorted(stages)
    merging = [i for i, name in enumerate(names) if 'downsample' in name]
    for i in merging:
        before = names[i - 1]
        assert 'downsample' in before or before.startswith(f'stages.{stages[i] - 1}.blocks.')


@torch.no_grad()
def test_a_whole_detectors_file_loads(tmp_path):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = model(extra_norm_every_n_blocks=2)

    original = v2_files.random_state_dict(classification=False, extra_norms=2)
    for name in ('microsoft', 'openmmlab'):
        theirs = {f'backbone.{k}': v for k, v in convert(original, name).items()}
        detector = Detector()
        torch.save({'state_dict': theirs, 'meta': {}}, tmp_path / 'detector.pth')
        load_checkpoint(detector, str(tmp_path / 'detector.pth'), strict=True)
        assert_gives_official_features(detector.backbone, original)


def test_own_files_are_the_models_state():
    ours = model(extra_norm_every_n_blocks=3)
    again = model(extra_norm_every_n_blocks=3)
    again.load_state_dict(ours.state_dict(), strict=True)
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in ours.state_dict().items())


def test_position_embeddings_are_resized():
    ape = torch.randn(1, 64, 24, dtype=torch.float64)
    original = v2_files.random_state_dict(ape=ape)
    backbone = model(use_abs_pos_embed=True, pretrain_img_size=64)
    backbone.load_state_dict(original, strict=True)
    grid = ape.mT.reshape(1, 24, 8, 8)
    expected = nn.functional.interpolate(grid, (16, 16), mode='bicubic').flatten(2).mT
    torch.testing.assert_close(backbone.absolute_pos_embed, expected)


# --- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize('strict', [True, False])
def test_weights_of_the_other_version_are_an_error_that_names_the_type(strict, tmp_path):
    second, first = v2_files.random_state_dict(), official.random_state_dict()
    message = (
        r"Swin Transformer V2, and the model, SwinTransformer, is V1; type='SwinTransformerV2'"
    )
    with pytest.raises(CheckpointError, match=message):
        SwinTransformer(**v2_files.GEOMETRY).load_state_dict(second, strict=strict)
    message = (
        r"Swin Transformer V1, and the model, SwinTransformerV2, is V2; type='SwinTransformer'"
    )
    with pytest.raises(CheckpointError, match=message):
        SwinTransformerV2(**V1).load_state_dict(first, strict=strict)
    torch.save(first, tmp_path / 'first.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'first.pth'))
    with pytest.raises(CheckpointError, match=rf'first\.pth does not fit the model.*{message}'):
        SwinTransformerV2(**V1, init_cfg=init_cfg).init_weights()


def test_what_does_not_fit_is_listed(tmp_path):
    torch.save(v2_files.random_state_dict(extra_norms=2), tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    message = r'not in the model(.|\n)*norm3(.|\n)*Swin V2, embed_dims=24'
    with pytest.raises(CheckpointError, match=message):
        model(init_cfg=init_cfg).init_weights()
    with pytest.raises(CheckpointError, match=r'another shape(.|\n)*logit_scale: found'):
        model(num_heads=(2, 2, 4, 4)).load_state_dict(v2_files.random_state_dict())
    # One bias for all three is torchvision's; its keys' part would count elsewhere.
    original = v2_files.random_state_dict()
    original['layers.0.blocks.0.attn.qkv.bias'] = torch.ones(72)
    with pytest.raises(RuntimeError, match=r'w_msa\.qkv\.bias'):
        model().load_state_dict(original, strict=True)


# --- windows -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ('windows', 'pretrained', 'told'),
    [((4, 4, 4, 4), (0, 0, 0, 0), (4, 4, 4, 4)), ((6, 6, 6, 3), (6, 6, 6, 4), (6, 6, 6, 4))],
)
@pytest.mark.parametrize('name', ['microsoft', 'torchvision'])
def test_another_window_is_warned_of_once_and_an_option_corrects_it(
    windows, pretrained, told, name, tmp_path, warned
):
    original = v2_files.random_state_dict(windows, pretrained)
    torch.save(convert(original, name), tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    plain = model(window_size=5, init_cfg=init_cfg)
    plain.init_weights()
    (message,) = warned
    assert f'trained with windows of {told} tokens' in message
    assert 'as if with (5, 5, 5, 5)' in message
    assert f'pretrained_window_sizes={told}' in message
    assert_gives_official_features(plain, original, (5,) * 4)

    warned.clear()
    right = model(window_size=5, pretrained_window_sizes=told, init_cfg=init_cfg)
    right.init_weights()
    assert not warned
    assert_gives_official_features(right, original, (5,) * 4, told)


@torch.no_grad()
@pytest.mark.parametrize('name', ['microsoft', 'openmmlab'])
def test_windows_that_shrank_to_their_maps_are_not_warned_of(name, warned):
    """Like those of the official files for 256 pixels and windows of 16: (16, 16, 16, 8)."""
    windows = (6, 6, 6, 3)
    weights = convert(v2_files.random_state_dict(windows), name)
    alike, other = model(window_size=6), model(window_size=windows)
    alike.load_state_dict(weights, strict=False)
    other.load_state_dict(weights, strict=False)
    assert not warned
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    for out, expected in zip(alike(x), other(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(window_size=8),  # of which the file's 6 is no map: the next stage's would be 3
        dict(window_size=6, pad_small_map=True),
        dict(window_size=6, pretrained_window_sizes=(6, 6, 6, 6)),
        dict(window_size=(6, 6, 5, 6)),
    ],
    ids=str,
)
def test_windows_that_did_not_shrink_are_warned_of(arguments, warned):
    model(**arguments).load_state_dict(v2_files.random_state_dict((6, 6, 6, 3)))
    assert 'trained with windows of (6, 6, 6, 3)' in warned[0] and len(warned) == 1


def test_files_that_do_not_tell_their_windows_are_not_warned_of(warned):
    model(window_size=8).load_state_dict(convert(v2_files.random_state_dict(), 'timm'))
    assert not warned


def test_each_stage_may_have_its_window(warned):
    windows = (6, 6, 6, 3)
    model(window_size=windows).load_state_dict(v2_files.random_state_dict(windows))
    assert not warned


# --- descriptions --------------------------------------------------------------------------------


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large', 'huge', 'giant'])
def test_variants_are_known_and_counted(arch):
    with torch.device('meta'):
        variant = SwinTransformerV2(arch=arch, window_size=8)
    description = describe(dict(variant.state_dict()))
    assert (description.version, description.architecture) == (2, arch)
    assert description.extra_norm_every_n_blocks == (6 if arch in ('huge', 'giant') else 0)
    assert description.window_size == 8
    assert description.parameters == sum(p.numel() for p in variant.parameters())


def test_windows_are_not_resized_and_other_architectures_are_an_error():
    description = describe(v2_files.random_state_dict(ape=torch.randn(1, 64, 24)))
    config = dict(type='SwinTransformerV2', **{**v2_files.GEOMETRY, 'window_size': 8})
    config |= dict(use_abs_pos_embed=True, pretrain_img_size=64)
    resized = ['absolute position embedding: 8×8 to 16×16']
    assert what_would_be_resized(description, config) == resized
    assert what_would_be_resized(description, {**config, 'type': SwinTransformerV2}) == resized
    with pytest.raises(CheckpointError, match='version: found 2, wanted 1'):
        what_would_be_resized(description, {**config, 'type': 'SwinTransformer'})
    with pytest.raises(CheckpointError, match='extra_norm_every_n_blocks: found 0, wanted 2'):
        what_would_be_resized(description, {**config, 'extra_norm_every_n_blocks': 2})

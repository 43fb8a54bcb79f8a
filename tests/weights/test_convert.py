"""Conversion of files, resizing, and adapting the number of input channels."""

from __future__ import annotations

import os

import official
import pytest
import torch
from torch.nn import functional as F

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer
from swin_backbone.weights import Conversion, convert, convert_file
from swin_backbone.weights.resize import adapt_input_channels

GEOMETRY = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
TABLE = 'layers.1.blocks.1.attn.relative_position_bias_table'


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['out.pth', 'out.safetensors'])
@pytest.mark.parametrize('to', ['openmmlab', 'mmpretrain', 'timm', 'torchvision', 'transformers'])
def test_files_go_there_and_back(name, to, tmp_path):
    state_dict = official.random_state_dict(classification=True)
    torch.save({'model': state_dict, 'optimizer': {}}, tmp_path / 'in.pth')
    done = convert_file(tmp_path / 'in.pth', tmp_path / name, to)
    assert isinstance(done, Conversion)
    assert (done.source, done.to) == ('microsoft', to)
    assert bool(done.dropped) == (to == 'openmmlab')
    convert_file(tmp_path / name, tmp_path / 'back.pth', 'microsoft')
    back = torch.load(tmp_path / 'back.pth')['model']
    kept = [k for k in state_dict if not k.endswith(('mask', 'index'))]
    if done.dropped:
        kept = [k for k in kept if not k.startswith(('norm.', 'head.'))]
    assert all(torch.equal(back[key], state_dict[key]) for key in kept)
    assert sorted(os.listdir(tmp_path)) == sorted({'in.pth', name, 'back.pth'})


def test_weights_are_under_the_owners_key(tmp_path):
    torch.save(official.random_state_dict(), tmp_path / 'in.pth')
    names = {'openmmlab': 'state_dict', 'detectron2': 'model', 'microsoft': 'model'}
    for to, name in names.items():
        convert_file(tmp_path / 'in.pth', tmp_path / 'out.pth', to)
        assert list(torch.load(tmp_path / 'out.pth')) == [name]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    torch.save(official.random_state_dict(ape_grid=(8, 8)), tmp_path / 'in.pth')
    (tmp_path / 'out.pth').write_bytes(b'precious')
    with pytest.raises(CheckpointError, match='no place'):
        convert_file(tmp_path / 'in.pth', tmp_path / 'out.pth', 'timm')
    with pytest.raises(FileNotFoundError, match='no folder'):
        convert_file(tmp_path / 'in.pth', tmp_path / 'nowhere' / 'out.pth', 'openmmlab')
    assert (tmp_path / 'out.pth').read_bytes() == b'precious'
    assert sorted(os.listdir(tmp_path)) == ['in.pth', 'out.pth']


def test_other_networks_are_an_error():
    with pytest.raises(CheckpointError, match=r'known Swin layout; it holds conv1\.weight'):
        convert({'conv1.weight': torch.zeros(1)}, 'timm')


# --- resizing ------------------------------------------------------------------------------------


def test_nothing_is_resized_unless_asked_for():
    state_dict = official.random_state_dict(ape_grid=(8, 8))
    resized = convert(state_dict, 'microsoft', window_size=(12, 12), pretrain_grid=(6, 10))
    table = state_dict[TABLE].T.reshape(1, 2, 7, 7)
    expected = F.interpolate(table, (23, 23), mode='bicubic').flatten(2)[0].T
    torch.testing.assert_close(resized[TABLE], expected)
    assert resized[TABLE.replace('bias_table', 'index')].shape == (144, 144)
    expected = F.interpolate(state_dict['absolute_pos_embed'], (6, 10), mode='bicubic')
    torch.testing.assert_close(resized['absolute_pos_embed'].mT.unflatten(-1, (6, 10)), expected)
    with pytest.raises(ArgumentError, match='no absolute position embedding'):
        convert(official.random_state_dict(), 'microsoft', pretrain_grid=(6, 10))


@pytest.mark.parametrize('name', ['microsoft', 'timm', 'torchvision', 'transformers', 'detectron2'])
def test_window_7_loads_into_12(name):
    state_dict = official.random_state_dict(window=7)
    model = SwinTransformer(**{**GEOMETRY, 'window_size': 12}).double()
    model.load_state_dict(convert(state_dict, name), strict=True)
    table = state_dict[TABLE].T.reshape(1, 2, 13, 13)
    expected = F.interpolate(table, (23, 23), mode='bicubic').flatten(2)[0].T
    ours = model.stages[1].blocks[1].attn.w_msa.relative_position_bias_table
    torch.testing.assert_close(ours, expected)


def test_grids_that_are_not_square(tmp_path):
    state_dict = official.random_state_dict(ape_grid=(6, 10))
    image = dict(use_abs_pos_embed=True, pretrain_img_size=(32, 64))
    expected = F.interpolate(state_dict['absolute_pos_embed'], (8, 16), mode='bicubic')
    model = SwinTransformer(**GEOMETRY, **image).double()
    model.load_state_dict(state_dict)  # a map says what its grid is
    torch.testing.assert_close(model.absolute_pos_embed.mT.unflatten(-1, (8, 16)), expected)

    flat = convert(state_dict, 'transformers')  # a sequence does not
    torch.save(flat, tmp_path / 'flat.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'flat.pth'))
    with pytest.raises(CheckpointError, match=r'60 positions.*source_grid'):
        SwinTransformer(**GEOMETRY, **image, init_cfg=init_cfg).init_weights()
    wrong = SwinTransformer(**GEOMETRY, **image, init_cfg={**init_cfg, 'source_grid': (7, 9)})
    with pytest.raises(CheckpointError, match=r'60 positions are no grid of 7×9.*source_grid'):
        wrong.init_weights()
    told = SwinTransformer(**GEOMETRY, **image, init_cfg={**init_cfg, 'source_grid': (6, 10)})
    told.double().init_weights()
    assert torch.equal(told.absolute_pos_embed, model.absolute_pos_embed)
    with pytest.raises(CheckpointError, match='source_grid'):
        convert(flat, 'detectron2')
    back = convert(flat, 'detectron2', source_grid=(6, 10))
    embedding = back['backbone.bottom_up.absolute_pos_embed']
    assert torch.equal(embedding, state_dict['absolute_pos_embed'])


# --- input channels ------------------------------------------------------------------------------


def embed(weight, x):
    return F.conv2d(x, weight, stride=4)


def test_rules_for_input_channels_match_their_formulas():
    weight, grey = torch.randn(8, 3, 4, 4).double(), torch.randn(1, 1, 16, 16).double()
    colour, four = torch.randn(1, 3, 16, 16).double(), torch.randn(1, 4, 16, 16).double()
    for channels in (1, 2, 13):
        mean = adapt_input_channels(weight, channels, 'mean')
        same = embed(mean, grey.expand(-1, channels, -1, -1))
        torch.testing.assert_close(same, embed(weight, grey.expand(-1, 3, -1, -1)))
    repeat = adapt_input_channels(weight, 6, 'repeat')
    torch.testing.assert_close(embed(repeat, colour.repeat(1, 2, 1, 1)), embed(weight, colour))
    last = adapt_input_channels(weight, 13, 'repeat')[:, 12]
    torch.testing.assert_close(last, weight[:, 0] * 3 / 13)
    zeros = adapt_input_channels(weight, 4, 'zeros')
    torch.testing.assert_close(embed(zeros, four), embed(weight, four[:, :3]))
    for rule in ('mean', 'repeat', 'zeros'):
        assert adapt_input_channels(weight, 3, rule) is weight
    with pytest.raises(ArgumentError, match=r"use 'mean' or 'repeat'"):
        adapt_input_channels(weight, 1, 'zeros')
    with pytest.raises(ArgumentError, match=r"in_channels='average'.*mean, repeat, zeros"):
        adapt_input_channels(weight, 1, 'average')


@pytest.mark.parametrize('channels', [1, 4, 13])
def test_other_input_channels_require_a_rule(channels, tmp_path):
    state_dict = official.random_state_dict()
    torch.save(state_dict, tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    arguments = dict(**GEOMETRY, in_channels=channels)
    message = rf'3 input channels, the model has {channels}.*in_channels=…'
    with pytest.raises(CheckpointError, match=message):
        SwinTransformer(**arguments, init_cfg=init_cfg).init_weights()
    with pytest.raises(CheckpointError, match=message):
        SwinTransformer(**arguments).load_state_dict(state_dict, strict=False)
    model = SwinTransformer(**arguments, init_cfg={**init_cfg, 'in_channels': 'mean'}).double()
    model.init_weights()
    expected = state_dict['patch_embed.proj.weight'].sum(1) / channels
    torch.testing.assert_close(model.patch_embed.projection.weight[:, -1], expected)


def test_unknown_options_are_named(tmp_path):
    torch.save(official.random_state_dict(), tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'), in_chans='mean')
    with pytest.raises(ArgumentError, match=r'unknown in_chans; it takes .*in_channels'):
        SwinTransformer(**GEOMETRY, init_cfg=init_cfg).init_weights()


def test_half_precision_files_load_into_single_precision():
    state_dict = {
        k: v.half() if v.is_floating_point() else v for k, v in official.random_state_dict().items()
    }
    converted = convert(state_dict, 'transformers')
    assert {v.dtype for v in converted.values()} == {torch.float16}
    model = SwinTransformer(**GEOMETRY)
    model.load_state_dict(converted, strict=True)
    weight = model.patch_embed.projection.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state_dict['patch_embed.proj.weight'].float())

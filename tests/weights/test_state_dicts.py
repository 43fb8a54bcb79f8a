"""Containers of weights: wrappers, averages, several backbones, safetensors, shards."""

from __future__ import annotations

import json
import logging.handlers

import official
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, ExponentialMovingAverage
from safetensors.torch import save_file
from torch import nn

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.weights import convert, describe, read_checkpoint
from swin_backbone.weights.state_dicts import find_backbone

GEOMETRY = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
KEY = 'layers.0.blocks.0.attn.qkv.weight'
LAYOUTS = ('microsoft', 'openmmlab', 'timm', 'torchvision', 'transformers')


def load_file(path, **options) -> SwinTransformer:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    model = SwinTransformer(**GEOMETRY, init_cfg=init_cfg).double()
    model.init_weights()
    return model


def qkv(model) -> torch.Tensor:
    return model.stages[0].blocks[0].attn.w_msa.qkv.weight.detach()


# --- prefixes ------------------------------------------------------------------------------------


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('prefix', ['module.backbone.', 'model.backbone.', 'student.', ''])
def test_wrapped_backbones_of_any_layout_load(layout, prefix, tmp_path):
    state_dict = official.random_state_dict()
    weights = {prefix + k: v for k, v in convert(state_dict, layout).items()}
    if prefix:
        weights['roi_head.weight'] = torch.zeros(2)
    torch.save({'model': weights, 'iteration': 7}, tmp_path / 'file.pth')
    assert torch.equal(qkv(load_file(tmp_path / 'file.pth')), state_dict[KEY])
    description = describe(tmp_path / 'file.pth')
    assert description.prefix == prefix.removeprefix('module.')
    assert (description.container, description.iteration) == ('model', 7)


def test_several_backbones_need_a_prefix(tmp_path):
    first, second = official.random_state_dict(), official.random_state_dict()
    both = {f'teacher.backbone.{k}': v for k, v in first.items()}
    both |= {f'student.backbone.{k}': v for k, v in second.items()}
    torch.save({'state_dict': both}, tmp_path / 'both.pth')
    with pytest.raises(CheckpointError, match=r"'student\.backbone\.', 'teacher\.backbone\.'"):
        load_file(tmp_path / 'both.pth')
    for prefix, expected in (('student', second), ('teacher.backbone.', first)):
        assert torch.equal(qkv(load_file(tmp_path / 'both.pth', prefix=prefix)), expected[KEY])


def test_a_detectors_backbone_takes_precedence():
    class Detector(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = SwinTransformer(**GEOMETRY)

    state_dict = official.random_state_dict()
    foreign = {f'backbone.{k}': v.float() for k, v in convert(state_dict, 'transformers').items()}
    detector = Detector()
    detector.load_state_dict(foreign, strict=True)
    assert torch.equal(qkv(detector.backbone), state_dict[KEY].float())
    elsewhere = {f'model.{k}': v for k, v in foreign.items()}
    said = logging.handlers.BufferingHandler(10)
    MMLogger.get_current_instance().addHandler(said)
    detector.load_state_dict(elsewhere, strict=False)
    MMLogger.get_current_instance().removeHandler(said)
    warning = 'nothing loaded, the checkpoint has no backbone.*'
    assert any(warning in record.getMessage() for record in said.buffer)


# --- moving averages -----------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['state_dict_ema', 'model_ema', 'ema'])
def test_averages_are_taken_on_request(name, tmp_path):
    plain, average = official.random_state_dict(), official.random_state_dict()
    nested = {'module': average} if name == 'ema' else average
    torch.save({'model': plain, name: nested, 'epoch': 2}, tmp_path / 'file.pth')
    assert describe(tmp_path / 'file.pth').ema
    for ema, expected in ((None, plain), (False, plain), (True, average)):
        assert torch.equal(qkv(load_file(tmp_path / 'file.pth', ema=ema)), expected[KEY])


def test_mmengine_swaps_average_and_weights(tmp_path):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = SwinTransformer(**GEOMETRY).double()

    network = Network()
    hook = EMAHook()
    hook.src_model = network
    hook.ema_model = ExponentialMovingAverage(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    checkpoint = {'state_dict': network.state_dict(), 'meta': {'epoch': 1, 'iter': 9}}
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')

    trained, average = qkv(network.backbone), qkv(hook.ema_model.module.backbone)
    assert not torch.equal(trained, average)
    for ema, expected in ((None, average), (True, average), (False, trained)):
        assert torch.equal(qkv(load_file(tmp_path / 'epoch_1.pth', ema=ema)), expected)
    description = describe(tmp_path / 'epoch_1.pth')
    assert (description.ema, description.epoch, description.iteration) == (True, 1, 9)


def test_an_average_that_is_not_there_is_an_error(tmp_path):
    torch.save({'model': official.random_state_dict()}, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='ema=True, but there is no moving average'):
        load_file(tmp_path / 'file.pth', ema=True)


# --- files ---------------------------------------------------------------------------------------


def write_shards(folder, state_dict, kind='safetensors'):
    """Writes a model in two shards, like transformers."""
    keys = list(state_dict)
    parts = {f'model-0000{i + 1}-of-00002.{kind}': keys[i::2] for i in range(2)}
    for name, part in parts.items():
        tensors = {key: state_dict[key].contiguous() for key in part}
        (save_file if kind == 'safetensors' else torch.save)(tensors, folder / name)
    where = {key: name for name, part in parts.items() for key in part}
    index = folder / f'model.{kind}.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
    return index


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.pth'])
def test_safetensors_are_detected_from_their_content(name, tmp_path):
    state_dict = official.random_state_dict()
    tensors = {k: v.contiguous() for k, v in convert(state_dict, 'transformers').items()}
    save_file(tensors, tmp_path / name)
    assert torch.equal(qkv(load_file(tmp_path / name)), state_dict[KEY])


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
def test_shards_are_merged(kind, tmp_path):
    state_dict = official.random_state_dict(classification=True)
    index = write_shards(tmp_path, convert(state_dict, 'transformers'), kind)
    assert torch.equal(qkv(load_file(index)), state_dict[KEY])
    assert describe(index).num_classes == 10


def test_damaged_safetensors_and_shards(tmp_path):
    state_dict = convert(official.random_state_dict(), 'transformers')
    index = write_shards(tmp_path, state_dict)
    shard = tmp_path / 'model-00002-of-00002.safetensors'
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r'00002\.safetensors cannot be read'):
        read_checkpoint(index)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match='00002-of-00002'):
        read_checkpoint(index)
    save_file({'other': torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match=r'lacks .*, which the index names'):
        read_checkpoint(index)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"a": 1}', 'no index of shards'),
        ('{"weight_map": {"a": 1}}', 'no index of shards'),
        ('{"weight_map": {"a": "../../secret.bin"}}', 'must lie beside its index'),
        ('{"weight_map"', 'no index of shards'),
    ],
)
def test_invalid_indices_are_refused(content, message, tmp_path):
    (tmp_path / 'model.safetensors.index.json').write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / 'model.safetensors.index.json')


def test_find_backbone_rejects_other_values():
    with pytest.raises(CheckpointError, match='expected a dict of tensors, found a list'):
        find_backbone([1])
    with pytest.raises(CheckpointError, match='expected a dict of tensors'):
        find_backbone({1: torch.zeros(1)})

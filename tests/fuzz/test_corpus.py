"""What the fuzzing found, an input each: it crashed, hung or gave NaN before it was mended."""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer, SwinTransformerV2
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)
from swin_backbone.cli.commands import commands
from swin_backbone.weights import (
    convert,
    convert_file,
    describe,
    load_pretrained,
    read_checkpoint,
    translate_classifier,
)
from swin_backbone.weights.compare import compare

SMALL = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
SMALL |= dict(window_size=2, pretrain_img_size=16)
V1, V2 = SwinTransformer, SwinTransformerV2
V1_CLS, V2_CLS = ClassificationSwinTransformer, ClassificationSwinTransformerV2

# --- configs --------------------------------------------------------------------------------------

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (V1, dict(num_heads=(0, 1)), r'num_heads\[0\]=0 must be a positive int'),
    (V1, dict(num_heads=(1, [])), r'num_heads\[1\]=\[\]'),
    (V2, dict(num_heads=('1', 2)), r"num_heads\[0\]='1'"),
    (V1, dict(depths=(1, None)), r'depths\[1\]=None must be an int from 0 on'),
    (V1, dict(depths=(1, 2.0)), r'depths\[1\]=2.0'),
    (V1, dict(depths=(-1, 1)), r'depths\[0\]=-1'),
    (V1, dict(depths=(10**9, 1)), r'depths\[0\]=1000000000 .* no more than 1024'),
    (V1, dict(drop_rate=None), 'drop_rate=None must be a probability'),
    (V2, dict(attn_drop_rate='0.1'), "attn_drop_rate='0.1' must be a probability"),
    (V1, dict(drop_path_rate=np.array([0.1, 0.2])), r'drop_path_rate=array\('),
    (V1, dict(mlp_ratio=math.nan), 'mlp_ratio=nan must be a number'),
    (V1, dict(mlp_ratio=(4,)), r'mlp_ratio=\(4,\)'),
    (V1, dict(mlp_ratio=-1), 'mlp_ratio=-1'),
    (V1, dict(mlp_ratio=1e300), r'mlp_ratio=1e\+300'),
    (V1, dict(qk_scale='0.1'), "qk_scale='0.1' must be a number or None"),
    (V1, dict(qk_scale=math.nan), 'qk_scale=nan'),
    (V1, dict(qkv_bias=torch.ones(2)), r'qkv_bias=tensor\(.* must be True or False'),
    (V1, dict(embed_dims=2**70), 'embed_dims=.* and no more than'),
    (V1, dict(window_size=10**5), 'window_size=100000 .* no more than 128'),
    (V2, dict(window_size=2**70), 'window_size='),
    (V1, dict(strides=(4, None)), r'strides\[1\]=None must be one or two ints from 1 on'),
    (V1, dict(strides=(4, 0)), r'strides\[1\]=0'),
    (V1, dict(strides=(4, (2, 1))), 'must be the same for both axes'),
    (V1, dict(patch_size={}, strides=({}, 2)), r'patch_size=\{\}'),
    (V1, dict(patch_size=0, strides=(0, 2)), 'patch_size=0'),
    (V1, dict(out_indices=(0.0,)), 'out_indices=0.0'),
    (V1, dict(frozen_stages=1.0), 'frozen_stages=1.0'),
    (V1, dict(pretrain_img_size=3, use_abs_pos_embed=True), 'pretrain_img_size=.*a patch of'),
    (V1, dict(pretrain_img_size=-16, use_abs_pos_embed=True), 'pretrain_img_size=-16'),
    (V1, dict(with_cp=np.array([True, False])), 'with_cp=array'),
    (V1, dict(norm_cfg=None), 'norm_cfg=None must be a dict, as dict'),
    (V1, dict(norm_cfg=dict(type='NoNorm')), 'norm_cfg=.* cannot be built'),
    (V1, dict(norm_cfg=dict(type='LN', epsilon=1e-6)), 'norm_cfg=.* cannot be built'),
    (V1, dict(norm_cfg=dict(type='LN', eps='small')), 'eps must be a number'),
    (V1, dict(norm_cfg=dict(type='LN', eps=math.nan)), 'eps must be a number'),
    (V1, dict(norm_cfg=dict(type='BN')), r'these are tokens \(B, L, C\)'),
    (V2, dict(norm_cfg=dict(type='GN', num_groups=2)), r'these are tokens \(B, L, C\)'),
    (V1, dict(act_cfg='GELU'), "act_cfg='GELU' cannot be built"),
    (V2, dict(act_cfg=dict(approximate='tanh')), 'act_cfg=.* cannot be built'),
    (V1, dict(embed_dim=np.array([8, 8])), 'contradicts'),
    (V1, dict(embed_dims=2**70, embed_dim=torch.tensor(8)), 'contradicts'),
    (V2, dict(pretrained_window_sizes=(2**70, 2)), 'pretrained_window_sizes='),
    (V1_CLS, dict(patch_cfg=False), 'patch_cfg=False must be a dict'),
    (V1_CLS, dict(stage_cfgs=('w',)), r"stage_cfgs\[0\]='w' must be a dict"),
    (V1_CLS, dict(stage_cfgs=dict(block_cfgs=3)), 'stage_cfgs.block_cfgs=3 must be a dict'),
    (V1_CLS, dict(patch_cfg=dict(bias=np.array([1, 2]))), 'has no counterpart'),
    (V2_CLS, dict(drop_rate='0'), "drop_rate='0' must be a probability"),
    (V2_CLS, dict(frozen_stages=None), 'frozen_stages=None must be an int from -1 on'),
    (V2_CLS, dict(norm_cfg=(6,)), 'norm_cfg=.* cannot be built'),
    (V1_CLS, dict(depths=3, strides=None), 'depths=3 must be a list'),
    (V1_CLS, dict(interpolate_mode=np.array([1, 2])), "must be 'bicubic'"),
]


@pytest.mark.parametrize(('backbone', 'arguments', 'message'), REFUSED)
def test_arguments_are_refused_by_name(backbone, arguments, message):
    arguments = {**SMALL, **arguments}
    if arguments['strides'] is None:
        del arguments['strides']
    with pytest.raises(ArgumentError, match=message), torch.device('meta'):
        backbone(**arguments)


@pytest.mark.parametrize(
    ('backbone', 'arguments'),
    [
        (V1, dict(window_size=np.int64(2))),
        (V2, dict(window_size=(np.int64(2), 2), pretrained_window_sizes=[np.int64(2), 0])),
        (V1, dict(embed_dims=torch.tensor(8), in_channels=torch.tensor(3))),
        (V1, dict(pretrain_img_size=np.int64(16), use_abs_pos_embed=True)),
        (V1, dict(strides=((4, 4), (2, 2)), patch_size=[4, 4])),
        (V1_CLS, dict(depths=(0, 1))),
        (V2_CLS, dict(depths=(1, 0), out_indices=(1,))),
    ],
)
def test_arguments_that_the_frameworks_classes_take(backbone, arguments):
    model = backbone(**{**SMALL, **arguments}).eval()
    outputs = model(torch.randn(1, 3, 21, 17))
    assert all(torch.isfinite(output).all() for output in outputs)


def test_a_number_of_more_digits_than_python_writes():
    with pytest.raises(ArgumentError, match='embed_dims=a huge int must be a positive int'):
        V1(**{**SMALL, 'embed_dims': 10**5000})


# --- checkpoints ----------------------------------------------------------------------------------

QKV = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
TABLE = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
PATCH = 'patch_embed.projection.weight'


@pytest.fixture
def model() -> SwinTransformer:
    return SwinTransformer(**SMALL, use_abs_pos_embed=True)


@pytest.fixture
def weights(model) -> dict[str, Any]:
    return dict(model.state_dict())


def sparse() -> Tensor:
    return torch.eye(24, 8).to_sparse()


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(24, 8), 0.1, 0, torch.qint8)


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def test_a_dict_within_itself(model, weights):
    cyclic: dict[str, Any] = {'weights': weights}
    cyclic['model'] = cyclic
    for use in (model.load_state_dict, describe, lambda content: convert(content, 'timm')):
        with pytest.raises(CheckpointError, match='not looked for below model'):
            use(cyclic)


@pytest.mark.parametrize('key', [3, None, (), b'stages.0'])
def test_keys_that_are_no_names(model, weights, key):
    weights[key] = torch.ones(1)
    with pytest.raises(CheckpointError, match='tensors by their names, found the key'):
        model.load_state_dict(weights)
    with pytest.raises(CheckpointError, match='tensors by their names, found the key'):
        translate_classifier(weights)


def test_no_dict_for_a_classifier(weights):
    with pytest.raises(CheckpointError, match='expected a dict of tensors, found a list'):
        translate_classifier([weights])


def test_stages_of_more_digits_than_python_reads(model, weights):
    key = f'layers.{"9" * 5000}.blocks.0.attn.qkv.weight'
    with pytest.raises(CheckpointError, match='known Swin layout'):
        describe({key: torch.ones(3, 3)})
    with pytest.raises(CheckpointError):
        model.load_state_dict({key: torch.ones(3, 3)})
    long = f'stages.0.blocks.{"9" * 5000}.norm3.weight'
    assert describe({**weights, long: torch.ones(8)}).depths == (1, 2)


def test_a_stage_of_a_great_number(weights):
    """Which was a list of so many stages."""
    weights['stages.999999999999.blocks.0.norm1.weight'] = torch.ones(8)
    assert describe(weights).depths == (1, 2)


@pytest.mark.parametrize('value', [sparse, quantised, nested])
def test_tensors_that_are_not_plain(model, weights, value):
    weights[QKV] = value()
    for use in (model.load_state_dict, lambda content: convert(content, 'timm')):
        with pytest.raises(CheckpointError, match=f'{QKV}: found a'):
            use(weights)
    with pytest.raises(CheckpointError, match=f'{QKV}: found a'):
        compare(weights, weights)
    assert describe(weights).depths == (1, 2)


@pytest.mark.parametrize('value', [3, None, [1.0]])
def test_conversion_and_comparison_of_what_is_no_tensor(weights, value):
    weights['norm1.bias'] = value
    with pytest.raises(CheckpointError, match=r'norm1\.bias: found a'):
        compare(weights, weights)
    with pytest.raises(CheckpointError, match=r'norm1\.bias: found a'):
        convert(weights, 'microsoft')


@pytest.mark.parametrize(
    ('key', 'shape', 'to'),
    [
        (TABLE, (), 'microsoft'),
        ('stages.0.downsample.reduction.weight', (16, 30), 'microsoft'),
        ('stages.0.downsample.norm.weight', (), 'timm'),
        (QKV, (25, 8), 'transformers'),
        ('absolute_pos_embed', (16,), 'detectron2'),
        ('absolute_pos_embed', (1, 0, 8), 'detectron2'),
    ],
)
def test_conversion_of_impossible_shapes(weights, key, shape, to):
    weights[key] = torch.ones(shape)
    with pytest.raises(CheckpointError, match=f'{key}: found'):
        convert(weights, to)


def test_an_index_that_would_fill_the_memory(weights):
    weights[TABLE] = torch.zeros(511**2, 1)
    with pytest.raises(CheckpointError, match='windows of 256 tokens a side'):
        convert(weights, 'microsoft')


@pytest.mark.parametrize(
    'options',
    [
        dict(window_size=10**6),
        dict(window_size='3'),
        dict(window_size=-3),
        dict(pretrain_grid=(0, 4)),
        dict(pretrain_grid=(-4, -4)),
        dict(pretrain_grid=4),
        dict(pretrain_grid=(10**6, 10**6)),
        dict(source_grid=(-4, -4)),
        dict(source_grid='ab'),
        dict(prefix=3),
        dict(ema='yes'),
        dict(source=np.ones(2)),
    ],
    ids=str,
)
def test_options_of_conversions(weights, options):
    with pytest.raises(ArgumentError):
        convert(weights, 'openmmlab', **options)


@pytest.mark.parametrize('rows', [8, 0])
def test_a_table_of_no_square_window_is_not_resized(weights, rows):
    weights[TABLE] = torch.zeros(rows, 1)
    with pytest.raises(CheckpointError, match='relative_position_bias_table: found'):
        convert(weights, 'openmmlab', window_size=3)


def test_biases_of_two_types_are_not_put_together():
    model = SwinTransformerV2(**SMALL)
    weights = dict(model.state_dict())
    key = 'stages.0.blocks.0.attn.w_msa.q_bias'
    weights[key] = weights[key].to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match='different shapes or types'):
        convert(weights, 'torchvision', window_size=2)


def test_resizing_what_is_not_floating_point(model, weights):
    weights[TABLE] = torch.ones(25, 1, dtype=torch.int64)
    with pytest.raises(CheckpointError, match='another shape'):
        model.load_state_dict(weights)


def test_an_embedding_without_positions(model, weights):
    weights['absolute_pos_embed'] = torch.ones(1, 8, 0, 3)
    with pytest.raises(CheckpointError, match='absolute_pos_embed: found'):
        model.load_state_dict(weights)


def test_what_has_other_dimensions_than_it_should_is_described(weights):
    weights['absolute_pos_embed'] = torch.ones(16)
    assert describe(weights).positions == 0
    classifier = convert(weights | {'absolute_pos_embed': torch.ones(1, 16, 8)}, 'microsoft')
    classifier['head.weight'] = torch.ones(())
    assert describe(classifier).num_classes is None


def test_comparison_without_values(weights):
    meta = {key: value.to('meta') for key, value in weights.items()}
    with pytest.raises(CheckpointError, match='no values to compare'):
        compare(weights, meta)


def test_comparison_passes_over_what_is_no_weight(weights):
    assert compare({**weights, 'epoch': 3}, {**weights, 'epoch': 4}).same


@pytest.mark.parametrize(
    'options',
    [
        dict(checkpoint=3),
        dict(checkpoint=torch.ones(2)),
        dict(source_grid=4),
        dict(source_grid=(4,)),
        dict(source_grid='ab'),
        dict(source_grid=np.array([4, 4])),
        dict(prefix=3),
        dict(ema=torch.ones(2)),
        dict(in_channels=np.array([1, 2])),
        {3: 4},
    ],
    ids=str,
)
def test_options_of_init_cfg(tmp_path, model, weights, options):
    torch.save(weights, tmp_path / 'file.pth')
    with pytest.raises(ArgumentError):
        load_pretrained(model, {'checkpoint': str(tmp_path / 'file.pth'), **options})


@pytest.mark.parametrize('value', [torch.ones(()), torch.ones(8, 0, 4, 4)], ids=['0-d', 'empty'])
def test_channels_of_what_is_no_patch_embedding(tmp_path, model, weights, value):
    torch.save({**weights, PATCH: value}, tmp_path / 'file.pth')
    options = dict(checkpoint=str(tmp_path / 'file.pth'), in_channels='mean')
    with pytest.raises(CheckpointError, match=f'{PATCH}: found'):
        load_pretrained(model, options)


def test_weights_without_values(tmp_path, model, weights):
    weights[QKV] = weights[QKV].to('meta')
    torch.save(weights, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='does not fit the model'):
        load_pretrained(model, dict(checkpoint=str(tmp_path / 'file.pth')))


# --- files ----------------------------------------------------------------------------------------


def archive(path: Path, pickled: bytes) -> Path:
    """A file in torch's format with a pickle and a storage of four numbers."""
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('archive/data.pkl', pickled)
        file.writestr('archive/byteorder', 'little')
        file.writestr('archive/data/0', bytes(16))
        file.writestr('archive/version', '3\n')
    return path


def refused(path: Path) -> None:
    for use in (read_checkpoint, describe):
        with pytest.raises(CheckpointError, match=path.name):
            use(path)


def test_eight_bit_floats_are_read(tmp_path, weights):
    """Their values were looked at with functions that they have not."""
    weights[QKV] = weights[QKV].to(torch.float8_e4m3fn)
    torch.save(weights, tmp_path / 'file.pth')
    assert read_checkpoint(tmp_path / 'file.pth')[QKV].dtype == torch.float8_e4m3fn


def test_nested_weights(tmp_path):
    torch.save({QKV: nested()}, tmp_path / 'file.pth')
    refused(tmp_path / 'file.pth')


@pytest.mark.parametrize(
    'pickled',
    [
        pytest.param(b'\x80\x02cnumpy\ndtype\nX\x03\0\0\0abc\x85R.', id='no such dtype'),
        pytest.param(
            b'\x80\x02cmmengine.logging.history_buffer\nHistoryBuffer\nK\x01K\x02\x86R.',
            id='a history of numbers',
        ),
        pytest.param(
            b'\x80\x02ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\nN)\x89tR.',
            id='a tensor of no size',
        ),
        pytest.param(b'\x80\x02X\xff\0', id='cut in a length'),
    ],
)
def test_pickles_that_misuse_what_is_allowed(tmp_path, pickled):
    refused(archive(tmp_path / 'file.pth', pickled))


def test_a_legacy_file_that_lost_a_storage(tmp_path, weights):
    file = io.BytesIO()
    torch.save({QKV: weights[QKV]}, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    key = content.index(b'cpuq') - 30
    digits = content.index(b'X', key)
    length = content[digits + 1]
    at = digits + 5
    assert content[at : at + length].isdigit()
    (tmp_path / 'file.pth').write_bytes(content[:at] + b'1' * length + content[at + length :])
    refused(tmp_path / 'file.pth')


def test_a_tensor_without_values_of_impossible_strides(tmp_path):
    pickled = (
        b'\x80\x02X\x08\0\0\0a.weightctorch._utils\n_rebuild_meta_tensor_no_storage\n'
        b'(ctorch\nfloat32\n\x8a\x05\0\0\0\x80\0K\x02\x86J\xff\xff\xff\xffK\x01\x86\x89tR'
    )
    path = archive(tmp_path / 'file.pth', b'\x80\x02}' + pickled[2:] + b's.')
    assert read_checkpoint(path)['a.weight'].is_meta


@pytest.mark.parametrize('pickled', [b'\x80\x04K\x03.', pickle.dumps({'a': 3}, 2)])
def test_a_pickle_called_safetensors(tmp_path, pickled):
    (tmp_path / 'file.safetensors').write_bytes(pickled)
    with pytest.raises(CheckpointError, match=r'file\.safetensors'):
        read_checkpoint(tmp_path / 'file.safetensors')


def test_a_broken_pickle_with_an_archive_after_it(tmp_path, weights):
    """The names that it asks for were looked for in the archive."""
    file = io.BytesIO()
    torch.save({QKV: weights[QKV]}, file)
    whole = file.getvalue()
    start = pickle.dumps({'state_dict': collections.Counter}, 2)
    (tmp_path / 'file.pth').write_bytes(start[:-1] + b'cos\nsystem\n.' + whole[len(whole) // 2 :])
    refused(tmp_path / 'file.pth')


def test_an_index_of_a_folder_of_ranks_that_lies(tmp_path):
    folder = tmp_path / 'ranks.pth'
    folder.mkdir()
    torch.save({'state_dict': {}, 'shards': {'ranks': 'a', 'rows': 3}}, folder / 'rank0.pth')
    refused(folder)


@pytest.mark.parametrize('folder', ['.', '/'])
def test_conversion_to_a_folder(tmp_path, monkeypatch, weights, folder):
    monkeypatch.chdir(tmp_path)
    torch.save(weights, 'file.pth')
    with pytest.raises(ArgumentError, match='is a folder'):
        convert_file('file.pth', folder, 'openmmlab')


# --- commands -------------------------------------------------------------------------------------

CONFIGS = {
    'exits.py': 'import sys\nsys.exit(7)\n',
    'syntax.py': 'model = dict(\n',
    'raises.py': 'raise KeyError(3)\n',
}


@pytest.mark.parametrize(
    ('command', 'config'),
    [(['complexity'], 'exits.py')]
    + [(['weights', 'info', 'file.pth', '--config'], config) for config in CONFIGS],
)
def test_configs_that_cannot_be_read(tmp_path, monkeypatch, weights, command, config):
    monkeypatch.chdir(tmp_path)
    torch.save(weights, 'file.pth')
    Path(config).write_text(CONFIGS[config])
    result = CliRunner().invoke(commands, [*command, config])
    assert (result.exit_code, f'{config} cannot be read' in result.output) == (3, True)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['weights', 'info', '~no-such-user/x'], 'begins with a user who is not known'),
        (['weights', 'verify', '~no-such-user/x'], 'begins with a user who is not known'),
        (['complexity', '~no-such-user/x'], 'begins with a user who is not known'),
        (['weights', 'download', 'http://['], 'is no URL'),
        (['weights', 'convert', 'file.pth', '--to', 'openmmlab', '-o', '.'], 'is a folder'),
        (
            ['weights', 'convert', 'file.pth', '--to', 'openmmlab', '-o', 'x', '--grid', '0', '4'],
            'pretrain_grid=0 must be a positive int',
        ),
    ],
)
def test_command_lines(tmp_path, monkeypatch, weights, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SWIN_OFFLINE', '1')
    torch.save(weights, 'file.pth')
    result = CliRunner().invoke(commands, arguments)
    assert (result.exit_code, message in result.output) == (3, True), result.output


@pytest.mark.parametrize(
    'arguments',
    [
        ['configs', 'copy', 'atss_swin_t_coco', '\udcff.py'],
        ['weights', 'convert', 'file.pth', '--to', 'openmmlab', '-o', '\udcff.pth'],
        ['weights', 'convert', 'file.pth', '--to', 'openmmlab', '-o', '\udcff.pth', '--json'],
    ],
)
def test_names_of_files_that_are_no_text(tmp_path, monkeypatch, weights, arguments):
    monkeypatch.chdir(tmp_path)
    torch.save(weights, 'file.pth')
    result = CliRunner().invoke(commands, arguments)
    assert (result.exit_code, '\\udcff' in result.output) == (0, True), result.output

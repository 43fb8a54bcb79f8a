"""Files with objects of unknown classes: they become placeholders, all else is read."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import enum
import pathlib
import pickle
import sys
import types

import numpy as np
import official
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.weights import convert_file, describe, read_checkpoint
from swin_backbone.weights.distributed_checkpoints import rank_file, split
from swin_backbone.weights.placeholders import Placeholder, placeholders_in
from swin_backbone.weights.torch_files import load

GEOMETRY = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2)
KEY = 'layers.0.blocks.0.attn.qkv.weight'


class Pair(collections.namedtuple('Pair', 'a b')):
    pass


class Kind(enum.Enum):
    ONE = 1


class Values(list):
    pass


@dataclasses.dataclass
class Options:
    lr: float = 0.1


class Slotted:
    __slots__ = ('a',)

    def __init__(self) -> None:
        self.a = 1


class Arguments(dict):
    """A dict with attributes, like yacs' CfgNode, addict's Dict and EasyDict."""

    def __init__(self, **items) -> None:
        super().__init__(**items)
        self.frozen = True


class Keyword:
    """Is created with keywords only, which protocols from 2 on write differently."""

    def __new__(cls, *, size):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {'size': 3}


def in_itself() -> argparse.Namespace:
    one = argparse.Namespace()
    one.parent, one.children = one, [one]
    return one


OBJECTS = {
    'Namespace': argparse.Namespace(lr=0.1, data=pathlib.Path('/data'), fn=official.forward),
    'PosixPath': pathlib.PosixPath('/data'),
    'ConfigDict': ConfigDict(model=dict(type='A', layers=[dict(a=1)])),
    'Arguments': Arguments(lr=0.1),
    'Values': Values([1, 2]),
    'Pair': Pair(1, 2),
    'Kind': Kind.ONE,
    'Options': Options(),
    'Slotted': Slotted(),
    'Keyword': Keyword(size=3),
    'defaultdict': collections.defaultdict(list, a=[1]),
    'deque': collections.deque([1, 2]),
    'datetime': datetime.datetime(2026, 1, 2),
    'slice': slice(1, 2),
    'forward': official.forward,
    'Linear': nn.Linear(2, 2),
    'in_itself': in_itself(),
}
NAMES = {'in_itself': 'argparse.Namespace'}
WRITERS = {
    'zip': lambda content, path: torch.save(content, path),
    'zip, protocol 4': lambda content, path: torch.save(content, path, pickle_protocol=4),
    'legacy': lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    **{
        f'pickle {protocol}': lambda content, path, protocol=protocol: path.write_bytes(
            pickle.dumps(content, protocol)
        )
        for protocol in (2, 3, 4, 5)
    },
}


def made_by_partial(name: str, writer: str) -> bool:
    """Protocols before 4 pass keywords by ``partial``."""
    return name == 'Keyword' and writer in ('zip', 'legacy', 'pickle 2', 'pickle 3')


def official_weights() -> dict[str, torch.Tensor]:
    weights = official.random_state_dict(8, (1, 1, 1, 1), (1, 1, 2, 2), 2)
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def loaded(path, **options) -> torch.Tensor:
    """The weight of the first attention after loading a file."""
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    model = SwinTransformer(**GEOMETRY, init_cfg=init_cfg)
    model.init_weights()
    return model.stages[0].blocks[0].attn.w_msa.qkv.weight.detach()


# --- objects beside the weights -------------------------------------------------------------------


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('name', OBJECTS)
def test_objects_become_placeholders(tmp_path, writer, name):
    weights = {'a.weight': torch.arange(6.0).view(2, 3).t(), 'a.bias': torch.ones(2)}
    WRITERS[writer]({'model': weights, 'args': OBJECTS[name], 'epoch': 7}, tmp_path / 'a.pth')
    content = read_checkpoint(tmp_path / 'a.pth')
    found = content['args']
    assert type(found) is Placeholder
    assert str(found) == NAMES.get(name) or found.name == name or made_by_partial(name, writer)
    assert content['epoch'] == 7 and list(content['model']) == list(weights)
    for key, value in weights.items():
        assert torch.equal(content['model'][key], value)
        assert content['model'][key].stride() == value.stride()
    assert list(placeholders_in(content)) == ['args']


def test_placeholders_in_all_containers(tmp_path):
    space = argparse.Namespace()
    content = {
        'model': {'a.weight': torch.ones(1)},
        'list': [1, (space, {'deep': space})],
        'keys': {Kind.ONE: 1, ('a', Kind.ONE): 2},
        'set': {Kind.ONE},
        'frozen': frozenset([Kind.ONE]),
    }
    torch.save(content, tmp_path / 'a.pth')
    found = placeholders_in(read_checkpoint(tmp_path / 'a.pth'))
    assert {name: value.name for name, value in found.items()} == {
        'list.1.0': 'Namespace',
        'list.1.1.deep': 'Namespace',
        'keys': 'Kind',
        'keys.1': 'Kind',
        'set.0': 'Kind',
        'frozen.0': 'Kind',
    }


def test_allowed_objects_are_read_beside_placeholders(tmp_path):
    """As by torch's reader."""
    content = {
        'state_dict': nn.BatchNorm2d(3).state_dict(),
        'parameter': nn.Parameter(torch.ones(2), requires_grad=False),
        'history': HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 1]),
        'array': np.arange(6, dtype='>i4').reshape(2, 3).T,
        'words': np.array(['ab', 'c']),
        'scalar': np.float32(0.5),
        'counts': collections.Counter(a=2),
        'sets': [{1, 2}, frozenset([3])],
        'bytes': b'\x00\xff',
        'none': (b'', None, True, 2**70, -1, 1.5, 3 + 4j, 'ä\udcff'),
        'torch': [torch.float16, torch.Size([2, 3]), torch.device('cpu')],
        'meta': torch.empty(2, 3, device='meta'),
        'rng': torch.get_rng_state(),
    }
    content['itself'] = [content['sets']]
    content['itself'].append(content['itself'])
    torch.save(content, tmp_path / 'known.pth')
    for writer in ('zip', 'zip, protocol 4', 'legacy'):
        path = tmp_path / 'more.pth'
        WRITERS[writer]({**content, 'args': argparse.Namespace()}, path)
        ours, torchs = load(path), load(tmp_path / 'known.pth')
        assert ours.pop('args').name == 'Namespace'
        assert list(ours) == list(torchs)
        for key in ('counts', 'sets', 'bytes', 'none', 'torch', 'scalar'):
            assert ours[key] == torchs[key] and type(ours[key]) is type(torchs[key]), key
        for key in ('array', 'words'):
            assert ours[key].dtype == torchs[key].dtype
            assert np.array_equal(ours[key], torchs[key]) and ours[key].flags.writeable
        assert ours['state_dict']._metadata == torchs['state_dict']._metadata
        assert type(ours['parameter']) is nn.Parameter and not ours['parameter'].requires_grad
        assert ours['history'].mean() == 2 and ours['history'].current() == 3
        assert ours['meta'].is_meta and ours['meta'].shape == (2, 3)
        assert torch.equal(ours['rng'], torchs['rng'])
        assert ours['itself'][1] is ours['itself'] and ours['itself'][0] is ours['sets']


def bytes_of(tensor: torch.Tensor) -> list[int]:
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist()


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
    *(torch.uint16, torch.float8_e4m3fn),
]


@pytest.mark.parametrize(
    'writer, dtype',
    [
        (writer, dtype)
        for writer in ('zip', 'zip, protocol 4', 'legacy', 'pickle 2', 'pickle 4')
        for dtype in DTYPES
        # torch itself reads storages without a type from zip files alone.
        if writer.startswith('zip') or dtype not in (torch.uint16, torch.float8_e4m3fn)
    ],
    ids=str,
)
def test_tensors_of_all_types(tmp_path, writer, dtype):
    values = torch.arange(24).view(4, 6).to(dtype)
    tensors = [values, values[1:, ::2], values.t(), values[0, 0], values[:0], values.flatten()]
    WRITERS[writer](
        {'t': {str(i): t for i, t in enumerate(tensors)}, 'a': Kind.ONE}, tmp_path / 'a'
    )
    read = list(load(tmp_path / 'a')['t'].values())
    for ours, theirs in zip(read, tensors, strict=True):
        assert ours.dtype == dtype and ours.stride() == theirs.stride()
        assert bytes_of(ours) == bytes_of(theirs)
    if not writer.startswith('pickle'):
        assert len({tensor.untyped_storage().data_ptr() for tensor in read}) == 1


@pytest.mark.parametrize('mmap', [False, True])
@pytest.mark.parametrize(
    'where',
    [None, 'cpu', torch.device('cpu'), 'meta', {'cpu': 'meta'}, lambda memory, place: memory],
    ids=['none', 'name', 'device', 'meta', 'mapping', 'function'],
)
def test_map_location_and_mmap_are_torchs(tmp_path, where, mmap):
    tensors = {'weight': torch.arange(100.0), 'bias': torch.ones(3)}
    torch.save({'t': tensors, 'args': Kind.ONE}, tmp_path / 'ours.pth')
    torch.save({'t': tensors}, tmp_path / 'torchs.pth')
    ours = load(tmp_path / 'ours.pth', where, mmap)['t']
    torchs = torch.load(tmp_path / 'torchs.pth', where, weights_only=True, mmap=mmap)['t']
    for key, value in torchs.items():
        assert ours[key].device == value.device
        assert value.is_meta or torch.equal(ours[key], value)


def test_files_of_the_other_byte_order(tmp_path, monkeypatch):
    content = {'a.weight': torch.arange(5.0), 'args': Kind.ONE}
    torch.save(content, tmp_path / 'a.pth')
    other = 'big' if sys.byteorder == 'little' else 'little'
    from swin_backbone.weights import torch_files

    monkeypatch.setattr(torch_files, 'sys', types.SimpleNamespace(byteorder=other))
    read = load(tmp_path / 'a.pth')['a.weight']
    assert read.view(torch.uint8).view(-1, 4).flip(1).flatten().view(torch.float32).tolist() == [
        *range(5)
    ]


def test_folders_of_one_file_per_process(tmp_path):
    folder = tmp_path / 'iter_1.pth'
    folder.mkdir()
    for rank in range(2):
        content = {
            'meta': {'iter': 1, 'seed': 2, 'options': argparse.Namespace()},
            'state_dict': {'a.weight': torch.full((3,), float(rank))},
        }
        split(
            content,
            rank,
            2,
            lambda v, rank=rank: (v, 3 * rank, (6,)) if hasattr(v, 'dim') else None,
        )
        torch.save(content, rank_file(folder, rank))
    content = read_checkpoint(folder)
    assert content['state_dict']['a.weight'].tolist() == [0, 0, 0, 1, 1, 1]
    assert placeholders_in(content).keys() == {'meta.options'}


# --- weights that are objects ---------------------------------------------------------------------


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize(
    'content',
    [
        nn.Linear(2, 2),
        {'model': nn.Linear(2, 2), 'epoch': 1},
        {'model': nn.Linear(2, 2), 'best': torch.ones(1)},
        {'model': nn.Linear(2, 2), 'optimizer': {'state': {0: {'exp_avg': torch.ones(2)}}}},
        {'state_dict': Options(torch.ones(2))},
        {'state_dict': {'a.weight': Pair(1, 2), 'a.bias': torch.ones(2)}},
        {'net': {'first': torch.ones(2), 'second': nn.Linear(2, 2)}},
        {'a.weight': nn.Linear(2, 2), 'b.weight': torch.ones(2)},
    ],
    ids=lambda content: str(content)[:40],
)
def test_weights_in_objects_are_refused_and_named(tmp_path, writer, content):
    WRITERS[writer](content, tmp_path / 'a.pth')
    name = next(n for n in ('Linear', 'Options', 'Pair') if n in repr(content))
    for read in (read_checkpoint, lambda path: CheckpointLoader.load_checkpoint(str(path))):
        with pytest.raises(CheckpointError, match=rf'{name}.*state_dict\(\)') as caught:
            read(tmp_path / 'a.pth')
        assert str(tmp_path / 'a.pth') in str(caught.value)


def test_extra_state_may_be_an_object(tmp_path):
    weights = {'a.weight': torch.ones(2), 'a._extra_state': argparse.Namespace()}
    torch.save({'model': weights, 'ema': {'updates': 3, 'model': nn.Linear(2, 2)}}, tmp_path / 'a')
    content = read_checkpoint(tmp_path / 'a')
    assert placeholders_in(content).keys() == {'model.a._extra_state', 'ema.model'}


def test_an_average_that_is_an_object(tmp_path):
    torch.save({'model': official_weights(), 'model_ema': nn.Linear(2, 2)}, tmp_path / 'a.pth')
    assert loaded(tmp_path / 'a.pth').shape == (24, 8)
    with pytest.raises(CheckpointError, match=r'no moving average .*model_ema \(.*Linear\)'):
        loaded(tmp_path / 'a.pth', ema=True)


# --- users ----------------------------------------------------------------------------------------


def timms(path) -> tuple[dict, dict]:
    """Writes a training checkpoint like timm's; returns weights and average."""
    weights, average = official_weights(), official_weights()
    content = {
        'epoch': 300,
        'arch': 'swin_tiny_patch4_window7_224',
        'state_dict': weights,
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
        'version': 2,
        'args': argparse.Namespace(lr=0.1, output=pathlib.PosixPath('out'), model_kwargs={}),
        'amp_scaler': {'scale': 65536.0},
        'state_dict_ema': average,
        'metric': 81.2,
    }
    torch.save(content, path)
    return weights, average


def test_timms_training_checkpoints(tmp_path):
    path = tmp_path / 'checkpoint-300.pth.tar'
    weights, average = timms(path)
    assert torch.equal(loaded(path), weights[KEY])
    assert torch.equal(loaded(path, ema=True), average[KEY])
    described = describe(path)
    assert described.not_read == ('args (argparse.Namespace)',) and described.epoch == 300
    convert_file(path, tmp_path / 'b.pth', to='microsoft', ema=True)
    assert torch.equal(loaded(tmp_path / 'b.pth'), average[KEY])


def test_a_detector_loads_it_by_load_from(tmp_path):
    """By mmengine, like ``load_from`` and ``--resume``."""
    from mmengine.runner import load_checkpoint

    detector = nn.Module()
    detector.backbone = SwinTransformer(**GEOMETRY)
    state_dict = {k: torch.full_like(v, 2) for k, v in detector.state_dict().items()}
    torch.save({'state_dict': state_dict, 'meta': {'args': argparse.Namespace()}}, tmp_path / 'a')
    content = load_checkpoint(detector, str(tmp_path / 'a'), map_location='cpu')
    assert content['meta']['args'].name == 'Namespace'
    assert (detector.backbone.stages[0].blocks[0].attn.w_msa.qkv.weight == 2).all()


def test_a_placeholder_does_nothing(tmp_path):
    found = Placeholder('argparse', 'Namespace')
    assert (str(found), repr(found)) == ('argparse.Namespace', '<argparse.Namespace, not read>')
    assert not callable(found) and found != Placeholder('argparse', 'Namespace')
    with pytest.raises(AttributeError, match=r"'lr' of an object that was not read.*Namespace"):
        found.lr  # noqa: B018
    for change in (lambda: setattr(found, 'name', 'a'), lambda: delattr(found, 'name')):
        with pytest.raises(AttributeError):
            change()
    for use in (iter, len, int):
        with pytest.raises(TypeError):
            use(found)
    # Reading a file that contains it requires no class.
    torch.save({'args': found}, tmp_path / 'again.pth')
    assert torch.load(tmp_path / 'again.pth', weights_only=True) == {
        'args': {'not_read': 'argparse.Namespace'}
    }
    assert copy.deepcopy(found) == {'not_read': 'argparse.Namespace'}


@pytest.mark.parametrize('name', ['a\x1b[2J', 'a\nb', 'a' * 10**6])
def test_names_are_printable(name):
    assert str(Placeholder('m', name)).isprintable() and len(str(Placeholder('m', name))) < 200

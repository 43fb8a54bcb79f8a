"""Files: good ones with bytes changed, and pickles that ask for what no checkpoint needs."""

from __future__ import annotations

import argparse
import atexit
import collections
import functools
import io
import json
import os
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Target
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from safetensors.torch import save as to_safetensors
from torch import _utils as rebuilders

from swin_backbone import SwinTransformer
from swin_backbone.weights import (
    allow_mmengine_checkpoints,
    convert,
    convert_file,
    describe,
    read_checkpoint,
)
from swin_backbone.weights.file_checks import check_file
from swin_backbone.weights.verify import verify

allow_mmengine_checkpoints()
SMALL = dict(embed_dims=4, depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,))
FOLDER = Path(tempfile.mkdtemp(prefix='fuzz'))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
KEY = 'stages.0.blocks.0.attn.w_msa.qkv.weight'


@functools.cache
def good() -> dict[str, bytes]:
    """The bytes of good files, by the ending that says what they are."""
    weights = dict(SwinTransformer(**SMALL, window_size=2, mlp_ratio=1).state_dict())
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    trained = {'meta': {'epoch': 3, 'hook': history}, 'state_dict': weights}
    official = {'model': convert(weights, 'microsoft')}
    whole = dict(rank=0, ranks=1, rows={('state_dict', KEY): (0, tuple(weights[KEY].shape))})
    index = {'weight_map': dict.fromkeys(weights, 'a.safetensors')}
    # With objects whose classes are not allowed; as detectron2 publishes weights.
    more = {**trained, 'args': argparse.Namespace(lr=0.1, kind=FOLDER)}
    arrays = {'model': {key: value.numpy() for key, value in weights.items()}, '__author__': 'x'}
    return {
        'zip': _saved(trained),
        'official': _saved(official),
        'legacy': _saved(trained, _use_new_zipfile_serialization=False),
        'pickle': pickle.dumps({'state_dict': {KEY: 3}}, 2),
        'safetensors': to_safetensors(weights),
        'index': json.dumps(index).encode(),
        'rank': _saved({**trained, 'shards': whole}),
        'objects': _saved(more),
        'protocol 4': _saved(more, pickle_protocol=4),
        'legacy with objects': _saved(more, _use_new_zipfile_serialization=False),
        'arrays': pickle.dumps(arrays, 4),
        'older arrays': pickle.dumps(arrays, 2),
        'tensors': pickle.dumps(more, 4),
    }


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


# --- bytes ----------------------------------------------------------------------------------------

_LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def damaged(content: bytes, chance: random.Random, times: int) -> bytes:
    """Bytes changed as a disk, a network or somebody may change them."""
    for _ in range(times):
        content = chance.choice(_DAMAGES)(bytearray(content) or bytearray(b'\0'), chance)
    return content


def _cut(content: bytearray, chance: random.Random) -> bytes:
    return bytes(content[: chance.randrange(len(content))])


def _headless(content: bytearray, chance: random.Random) -> bytes:
    return bytes(content[chance.randrange(min(len(content), 64)) :])


def _flip(content: bytearray, chance: random.Random) -> bytes:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _flip_early(content: bytearray, chance: random.Random) -> bytes:
    content[chance.randrange(min(len(content), 40))] = chance.randrange(256)
    return bytes(content)


def _flip_late(content: bytearray, chance: random.Random) -> bytes:
    content[-1 - chance.randrange(min(len(content), 200))] = chance.randrange(256)
    return bytes(content)


def _length(content: bytearray, chance: random.Random) -> bytes:
    at, form = chance.randrange(len(content)), chance.choice('BHIQ')
    value = struct.pack(f'<{form}', chance.choice(_LENGTHS) % 2 ** (8 * struct.calcsize(form)))
    content[at : at + len(value)] = value
    return bytes(content)


def _repeat(content: bytearray, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(content)), chance.randrange(1, 64)
    return bytes(content[:start] + content[start : start + length] + content[start:])


def _remove(content: bytearray, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(content)), chance.randrange(1, 64)
    return bytes(content[:start] + content[start + length :])


def _splice(content: bytearray, chance: random.Random) -> bytes:
    other = chance.choice(list(good().values()))
    return bytes(content[: chance.randrange(len(content))] + other[chance.randrange(len(other)) :])


def _zeros(content: bytearray, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(content)), chance.randrange(1, 512)
    content[start : start + length] = bytes(len(content[start : start + length]))
    return bytes(content)


_DAMAGES: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    *(_cut, _headless, _flip, _flip, _flip_early, _flip_late, _length, _length),
    *(_repeat, _remove, _splice, _zeros),
)


def repacked(content: bytes, chance: random.Random, times: int) -> bytes:
    """An archive whose checksums are right and whose pickle, mostly, was damaged."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            entry = old.read(name)
            if name.endswith('.pkl') or chance.random() < 0.02:
                entry = damaged(entry, chance, times)
            new.writestr(name, entry)
    return file.getvalue()


# --- pickles --------------------------------------------------------------------------------------


class Call:
    """Is what a call gives, when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call


class Named:
    """A global of any name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Storage:
    """A storage of an archive, as torch refers to one."""

    def __init__(self, *reference: Any) -> None:
        self.reference = reference


class Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes the three above."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, Storage) else None

    def save_named(self, value: Named) -> None:
        self.write(b'c' + f'{value.module}\n{value.name}\n'.encode())

    dispatch[Named] = save_named


SIZES: list[Any] = [
    *((2, 2), (), (0,), (-1,), (2**31, 2), (2**40,), (2**62, 4), (2.0,), ('a',), None, 4, [2, 2]),
    *((2**70,), (True, 2), ((1,),), (1,) * 70),
]
STRIDES: list[Any] = [
    (2, 1),
    (),
    (0, 0),
    (1,),
    (-1, 1),
    (2**31, 1),
    (2**62, 1),
    None,
    'a',
    (1.5, 1),
]
OFFSETS: list[Any] = [0, 0, 1, -1, 2**31, 2**62, 2**70, None, 'a', 1.5]
COUNTS: list[Any] = [4, 4, 0, -1, 1, 2**31, 2**62, 2**70, None, 'a', 1.5]
CLASSES = [torch.FloatStorage, torch.HalfStorage, torch.LongStorage, torch.BoolStorage, 'no', None]
NAMES = [
    *(('os', 'system'), ('builtins', 'eval'), ('builtins', 'getattr'), ('builtins', 'bytearray')),
    *(('__builtin__', 'bytearray'), ('torch', 'load'), ('torch.jit', 'load'), ('no', 'thing')),
    *(('numpy', 'load'), ('subprocess', 'Popen'), ('', ''), ('torch', 'float8_e4m3fn')),
    *(('collections', 'Counter'), ('torch', 'Size'), ('torch', 'device'), ('torch', 'Tensor')),
    *(
        ('torch.serialization', '_get_layout'),
        ('torch._utils', '_rebuild_device_tensor_from_numpy'),
    ),
    *(('numpy.core.multiarray', 'scalar'), ('numpy._core.multiarray', '_reconstruct')),
    *(('numpy', 'dtype'), ('numpy', 'ndarray'), ('numpy.dtypes', 'Float64DType')),
    ('mmengine.logging.history_buffer', 'HistoryBuffer'),
    *(('torch', 'UntypedStorage'), ('torch', 'qint8'), ('torch._tensor', '_rebuild_from_type_v2')),
]
ATOMS: list[Any] = [
    *(None, 0, 1, -1, 2**31, 2**70, 1.5, float('nan'), '', 'a', 'cpu', 'cuda', 'f8', 'O', b'abc'),
    *((), (1,), [], {}, [1, 2], {'a': 1}, torch.float32, torch.Size([2]), True, set(), b'\0' * 8),
    *(collections.OrderedDict(), bytearray(3), 'V4294967295', 'U2000000000', '>f4', (2**31,)),
]


@st.composite
def values(draw: st.DrawFn, deep: int = 2) -> Any:
    """Something to stand where a tensor is expected."""
    kind = draw(st.sampled_from(['tensor', 'tensor', 'call', 'call', 'name', 'atom', 'rebuild']))
    if kind == 'atom' or deep == 0:
        return draw(st.sampled_from(ATOMS))
    if kind == 'name':
        return Named(*draw(st.sampled_from(NAMES)))
    pick = functools.partial(draw, st.sampled_from(ATOMS) | values(deep - 1))
    if kind == 'call':
        arguments = [pick() for _ in range(draw(st.integers(0, 4)))]
        state = draw(st.none() | st.none() | st.sampled_from(ATOMS))
        return Call(Named(*draw(st.sampled_from(NAMES))), *arguments, state=state)
    count, kind_of = draw(st.sampled_from(COUNTS)), draw(st.sampled_from(CLASSES))
    place = draw(st.sampled_from(['cpu', 'cpu', 'meta', 'cuda', 'no', None]))
    storage = Storage(
        'storage', kind_of, draw(st.sampled_from(['0', '0', '9', '../0'])), place, count
    )
    size, stride = draw(st.sampled_from(SIZES)), draw(st.sampled_from(STRIDES))
    offset = draw(st.sampled_from(OFFSETS))
    if kind == 'tensor':
        hooks = collections.OrderedDict()
        return Call(rebuilders._rebuild_tensor_v2, storage, offset, size, stride, False, hooks)
    tensor = Call(rebuilders._rebuild_tensor, storage, offset, size, stride)
    return draw(
        st.sampled_from(
            [
                tensor,
                Call(rebuilders._rebuild_parameter, tensor, pick(), pick()),
                Call(
                    rebuilders._rebuild_meta_tensor_no_storage, torch.float32, size, stride, False
                ),
                Call(rebuilders._rebuild_sparse_tensor, torch.sparse_coo, (tensor, tensor, size)),
                Call(rebuilders._rebuild_sparse_tensor, torch.sparse_csr, (tensor, tensor, size)),
                Call(
                    rebuilders._rebuild_qtensor,
                    storage,
                    offset,
                    size,
                    stride,
                    (pick(), 0.1, 0),
                    0,
                    0,
                ),
                Call(rebuilders._rebuild_nested_tensor, tensor, tensor, tensor, tensor),
                Call(
                    rebuilders._rebuild_tensor_v2, storage, offset, size, stride, False, {}, pick()
                ),
                Call(HistoryBuffer, pick(), pick(), pick()),
                Call(np.dtype, pick(), state=pick()),
            ]
        )
    )


@st.composite
def pickles(draw: st.DrawFn) -> bytes:
    """An archive of torch's with a pickle of the above; of those of protocol 4 torch reads none."""
    weights = {draw(st.sampled_from([KEY, 'a.weight', 'a'])): draw(values())}
    content = draw(st.sampled_from([weights, {'state_dict': weights}, {'meta': weights}]))
    pickled, file = io.BytesIO(), io.BytesIO()
    try:
        Pickler(pickled, draw(st.sampled_from([2, 2, 4]))).dump(content)
    except (TypeError, pickle.PicklingError):
        return pickle.dumps(3)
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled.getvalue())
        archive.writestr('archive/byteorder', draw(st.sampled_from(['little', 'big', 'no'])))
        archive.writestr('archive/data/0', bytes(16))
        archive.writestr('archive/version', '3\n')
    return file.getvalue()


# --- inputs ---------------------------------------------------------------------------------------


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A route, a file's name and its bytes."""
    name = draw(st.sampled_from(list(good())))
    kind = draw(st.sampled_from(['bytes', 'bytes', 'archive', 'pickle', 'text']))
    chance = random.Random(draw(st.integers(0, 2**32)))
    times = draw(st.integers(0, 3))
    if kind == 'pickle':
        content = draw(pickles())
    elif kind == 'text':
        content = draw(st.binary(max_size=40))
        content = draw(st.sampled_from([b'', b'{', b'\x80\x02', b'PK\x03\x04', bytes(8)])) + content
    elif kind == 'archive' and name in ('zip', 'official', 'rank', 'objects'):
        content = repacked(good()[name], chance, times)
    else:
        content = damaged(good()[name], chance, times)
    return draw(st.sampled_from(list(ROUTES))), name, content


def _in_folder(path: Path, content: bytes) -> None:
    """As the first of a folder of one file a process."""
    folder = FOLDER / 'ranks.pth'
    folder.mkdir(exist_ok=True)
    (folder / 'rank0.pth').write_bytes(content)
    read_checkpoint(folder)


def _loaded(path: Path, content: bytes) -> None:
    from mmengine.runner import CheckpointLoader

    CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


ROUTES: dict[str, Callable[[Path, bytes], Any]] = {
    'read': lambda path, _: read_checkpoint(path),
    'verify': lambda path, _: verify(path),
    'describe': lambda path, _: describe(path),
    'convert': lambda path, _: convert_file(path, FOLDER / 'converted.pth', 'microsoft'),
    'check': lambda path, _: check_file(path),
    'mmengine': _loaded,
    'in a folder': _in_folder,
}


def run(drawn: tuple[str, str, bytes]) -> str:
    """Writes the file and takes the route."""
    route, name, content = drawn
    endings = {'safetensors': '.safetensors', 'index': '.safetensors.index.json'}
    path = FOLDER / f'file{endings.get(name, ".pth")}'
    if not (FOLDER / 'a.safetensors').exists():
        (FOLDER / 'a.safetensors').write_bytes(good()['safetensors'])
    path.write_bytes(content)
    try:
        ROUTES[route](path, content)
    finally:
        os.unlink(path)
    return 'accepted'


TARGET = Target(files(), run, also=(FileNotFoundError,))

"""Malicious and damaged files: each gives a clear error, without running code or filling memory."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.weights import read_checkpoint, tensors

KEY = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
TABLE = 'stages.0.blocks.0.attn.w_msa.relative_coords_table'


class Call:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Late(Call):
    """Has a harmless constructor and calls a function by its state."""

    def __reduce__(self):
        return collections.OrderedDict, (), self.call[0], None


def refused(path: Path, *messages: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    for message in (*messages, str(path)):
        assert message in str(caught.value), str(caught.value)


# --- code ----------------------------------------------------------------------------------------

WRITERS = {
    'zip': lambda content, path: torch.save(content, path),
    'legacy': lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    'pickle2': lambda content, path: path.write_bytes(pickle.dumps(content, 2)),
    'pickle4': lambda content, path: path.write_bytes(pickle.dumps(content, 4)),
}


@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize(
    'function, argument, name',
    [
        (os.mkdir, '{made}', 'mkdir'),
        (os.system, 'mkdir {made}', 'system'),
        (eval, '__import__("os").mkdir("{made}")', 'eval'),
        (exec, 'import os; os.mkdir("{made}")', 'exec'),
        (subprocess.check_call, ['mkdir', '{made}'], 'check_call'),
        (torch.load, '{made}', 'load'),
        (np.load, '{made}', 'load'),
        (getattr, None, 'getattr'),
    ],
)
def test_code_is_refused_and_named(tmp_path, writer, function, argument, name):
    made = tmp_path / 'made'
    if isinstance(argument, list):
        arguments = ([part.format(made=made) for part in argument],)
    elif argument is None:
        arguments = (np.ndarray, 'tofile')
    else:
        arguments = (argument.format(made=made),)
    path = tmp_path / 'evil.pth'
    WRITERS[writer]({'state_dict': {KEY: Call(function, *arguments)}}, path)
    refused(path, name)
    assert not made.exists()


def test_the_frameworks_loader_refuses_too(tmp_path):
    from mmengine.runner import CheckpointLoader

    made = tmp_path / 'made'
    torch.save({'state_dict': {KEY: Call(os.mkdir, str(made))}}, tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='mkdir'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))
    model = SwinTransformer(
        embed_dims=8,
        depths=(1,),
        num_heads=(1,),
        strides=(4,),
        out_indices=(0,),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'evil.pth')),
    )
    with pytest.raises(CheckpointError, match='mkdir'):
        model.init_weights()
    assert not made.exists()


def test_torchscript_is_refused(tmp_path):
    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    torch.jit.save(torch.jit.script(Program()), str(tmp_path / 'program.pth'))
    refused(tmp_path / 'program.pth', 'TorchScript archive', 'state_dict()')


# --- memory --------------------------------------------------------------------------------------


def deflated(path: Path) -> None:
    """256 MiB of zeros in a quarter of a megabyte."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}, 2))
        with archive.open('archive/data/0', 'w') as entry:
            for _ in range(256):
                entry.write(bytes(1 << 20))


def deflated_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + b'N0' * (64 << 20) + b'N.')
        archive.writestr('archive/version', '3')


def lying(path: Path) -> None:
    """Uncompressed, with 4 GiB of data according to the table of contents."""
    torch.save({KEY: torch.ones(1)}, path)
    content = bytearray(path.read_bytes())
    start = content.rindex(b'PK\x01\x02', 0, content.rindex(b'data/0'))
    content[start + 20 : start + 28] = struct.pack('<II', 0xFFFFFFFE, 0xFFFFFFFE)
    path.write_bytes(content)


def overlapping(path: Path) -> None:
    """A thousand entries that share one megabyte."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}, 2))
        archive.writestr('archive/data/0', bytes(1 << 20))
        first = archive.getinfo('archive/data/0')
        for index in range(1, 1000):
            other = zipfile.ZipInfo(f'archive/data/{index}')
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = first.file_size
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other


def allocating(path: Path) -> None:
    torch.save({KEY: Call(bytearray, 1 << 31)}, path)


def allocating_legacy(path: Path) -> None:
    torch.save({KEY: Call(bytearray, 1 << 31)}, path, _use_new_zipfile_serialization=False)


def reserving(path: Path) -> None:
    torch.save({KEY: Call(torch.UntypedStorage, 1 << 33)}, path)


def reserving_array(path: Path) -> None:
    torch.save({KEY: Call(np._core.multiarray._reconstruct, np.ndarray, (1 << 33,), b'b')}, path)


def expanded(path: Path) -> None:
    """A weight of four terabytes, expanded from one value."""
    torch.save({KEY: torch.ones(1).expand(1 << 20, 1 << 20)}, path)


def expanded_coordinates(path: Path) -> None:
    """V2's table for windows of side 65536, expanded from one value; its index would be huge."""
    torch.save({TABLE: torch.ones(1).expand(1, 131071, 131071, 2)}, path)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack('<Q', 1 << 40) + b'{' + bytes(100))


BOMBS = [
    deflated,
    deflated_pickle,
    lying,
    overlapping,
    allocating,
    allocating_legacy,
    reserving,
    reserving_array,
    expanded,
    expanded_coordinates,
    huge_header,
]
MEASURED = """
import resource, sys
sys.argv[0] = 'swin-backbone'  # which leaves the frameworks out
from swin_backbone import CheckpointError
from swin_backbone.weights import read_checkpoint
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for path in sys.argv[1:]:
    try:
        read_checkpoint(path)
        outcome = 'read'
    except CheckpointError as error:
        outcome = str(error).replace(path, 'FILE').replace('\\n', ' ')
    print(f'{path}\\t{peak() - before}\\t{outcome}')
"""


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Peak memory in MiB of a process after each bomb, and the error."""
    folder = tmp_path_factory.mktemp('bombs')
    for bomb in BOMBS:
        bomb(folder / f'{bomb.__name__}.pth')
    command = [sys.executable, '-W', 'ignore', '-c', MEASURED]
    command += [str(folder / f'{bomb.__name__}.pth') for bomb in BOMBS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = [line.split('\t') for line in result.stdout.splitlines() if '\t' in line]
    assert len(lines) == len(BOMBS), result.stderr
    return {Path(path).stem: (int(mib), said) for path, mib, said in lines}


@pytest.mark.parametrize(
    'bomb, message',
    [
        (deflated, 'its entries declare 2684354'),
        (deflated_pickle, 'its entries declare 1342177'),
        (lying, 'its entries declare 42949'),
        (overlapping, 'its entries declare 1048576'),
        (allocating, 'it calls bytearray'),
        (allocating_legacy, 'it calls bytearray'),
        (reserving, f'{KEY}: found a UntypedStorage'),
        (reserving_array, f'{KEY}: found a ndarray'),
        (expanded, f'{KEY}: found (1048576, 1048576) made of 1 values'),
        (expanded_coordinates, f'{TABLE}: found (1, 131071, 131071, 2) made of 1 values'),
        (huge_header, 'as no checkpoint does'),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_bombs_are_refused_with_little_memory(outcomes, bomb, message):
    mib, said = outcomes[bomb.__name__]
    assert message in said
    assert mib < 64


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'is empty (0 bytes)'),
        (b'epoch: 12\nloss: 0.3\n', 'a text file'),
        (b'<!DOCTYPE html><html>404</html>', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'Git LFS'),
        (b'\x00\xff\x10\x20\x00\xff\x10\x20', 'as no checkpoint does'),
        (b'PK\x03\x04 and no more', 'cut short'),
        (b'\x80\x02}q\x00', 'cut short'),
    ],
)
def test_no_checkpoint_at_all(tmp_path, content, message):
    (tmp_path / 'file.pth').write_bytes(content)
    refused(tmp_path / 'file.pth', message)


def test_a_folder(tmp_path):
    refused(tmp_path, 'is a folder')


def test_a_tar_archive(tmp_path):
    with tarfile.open(tmp_path / 'old.pth', 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'), io.BytesIO())
    refused(tmp_path / 'old.pth', 'tar archive')


@pytest.mark.parametrize('writer', ['zip', 'legacy'])
@pytest.mark.parametrize('keep', [0.02, 0.5, 0.99])
def test_truncated(tmp_path, writer, keep):
    WRITERS[writer]({KEY: torch.randn(200, 200)}, tmp_path / 'whole.pth')
    whole = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[: int(len(whole) * keep)])
    refused(tmp_path / 'cut.pth')


def test_the_format_before_torch_1_6_loads(tmp_path):
    WRITERS['legacy']({'model': {KEY: torch.full((2, 2), 3.0)}}, tmp_path / 'old.pth')
    assert read_checkpoint(tmp_path / 'old.pth')['model'][KEY].sum() == 12


@pytest.mark.parametrize(
    'value, message',
    [
        (torch.ones(2, 2, dtype=torch.int64), 'torch.int64'),
        (torch.ones(2, 2, dtype=torch.bool), 'torch.bool'),
        (torch.ones(2, 2, dtype=torch.complex64), 'torch.complex64'),
        ([1.0, 2.0], 'a list'),
        (np.ones((2, 2)), 'a ndarray'),
        (torch.eye(2).to_sparse(), 'a torch.sparse_coo tensor'),
    ],
)
@pytest.mark.parametrize('container', [None, 'model', 'state_dict'])
def test_weights_that_are_no_floats(tmp_path, value, message, container):
    weights = {KEY: value, 'relative_position_index': torch.ones(2, dtype=torch.int64)}
    torch.save({container: weights} if container else weights, tmp_path / 'file.pth')
    refused(tmp_path / 'file.pth', f'{KEY}: found {message}')


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_infinity_are_warned_of_once(tmp_path, monkeypatch, value, dtype):
    said = []
    monkeypatch.setattr(tensors, 'print_log', lambda text, **_: said.append(text))
    weights = {KEY: torch.ones(3, 3, dtype=dtype), 'norm3.weight': torch.ones(3)}
    weights[KEY][1, 1] = value
    torch.save({'state_dict': weights}, tmp_path / 'file.pth')
    read_checkpoint(tmp_path / 'file.pth')
    assert said == [f'{tmp_path / "file.pth"}: NaN or infinity in 1 weights: {KEY}']


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda whole: whole[:-4], 'cut short'),
        (lambda whole: whole[:8] + b'{"a":' + whole[13:], 'cut short'),
        (lambda whole: struct.pack('<Q', len(whole)) + whole[8:], 'cut short'),
    ],
)
def test_safetensors(tmp_path, damage, message):
    save_file({KEY: torch.ones(8, 8)}, tmp_path / 'file.safetensors')
    assert read_checkpoint(tmp_path / 'file.safetensors')[KEY].sum() == 64
    whole = (tmp_path / 'file.safetensors').read_bytes()
    (tmp_path / 'bad.safetensors').write_bytes(damage(whole))
    refused(tmp_path / 'bad.safetensors', message)

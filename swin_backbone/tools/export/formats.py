"""Writes a part of a model to a file."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch.export import ExportedProgram

from ...errors import ArgumentError
from ...files import replacing
from ...version import __version__
from .parts import Part
from .program import record, recording_settings

# The suffix of each format's files; it tells them apart when they are read.
SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}
FORMATS = tuple(SUFFIXES)
OPSET = 18
# ONNX files are protocol buffers, which are limited to 2 GiB; larger weights need a second file.
_ONE_FILE = 2**31 - 2**24
_METADATA = 'metadata.json'


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: Its path.
        dynamic: Whether it accepts any batch size, height and width.
        metadata: The metadata in it.
        quantised: The path of the same model with int8 weights, or None.
    """

    path: Path
    dynamic: bool
    metadata: dict[str, str]
    quantised: Path | None = None


def export(
    part: Part,
    path: str | Path,
    to: str = 'onnx',
    *,
    dynamic: bool = False,
    batch: int = 1,
    size: tuple[int, int] = (224, 224),
    int8: bool = False,
) -> Exported:
    """Writes a part of a model to a file.

    Args:
        part: The result of :func:`load_part`.
        path: The file to write, ``*.onnx`` or ``*.pt2``. It is replaced atomically.
        to: ``'onnx'``, for ONNX Runtime and other runtimes of operator set 18, or
            ``'torch-export'``, which ``torch.export.load`` opens without this package.
        dynamic: Whether the file accepts any batch size, height and width.
        batch: The batch size, if not dynamic.
        size: Height and width in pixels, if not dynamic.
        int8: Whether to write ``<name>.int8.onnx`` as well, with int8 weights of linear layers and
            dynamic quantisation of their inputs. Convolutions are not quantised.

    Raises:
        ArgumentError: Arguments contradict each other or the model, or a package is missing.
        OSError: The file cannot be written.
    """
    if to not in FORMATS:
        raise ArgumentError(f'to={to!r} must be one of {", ".join(FORMATS)}')
    if int8 and to != 'onnx':
        raise ArgumentError("int8=True needs to='onnx': the quantiser is ONNX Runtime's")
    if not dynamic and (size[0] < part.least[0] or size[1] < part.least[1] or batch < 1):
        raise ArgumentError(
            f'size={size} and batch={batch} must be at least {part.least} pixels and 1 image'
        )
    path = Path(path).expanduser()
    if to == 'onnx':
        _needed('onnx'), _needed('onnxscript'), _needed('onnxruntime')
    _check_writable(path)
    if path.suffix != SUFFIXES[to]:
        raise ArgumentError(f'{path}: the name of a file of to={to!r} must end in {SUFFIXES[to]}')
    metadata = {
        **part.metadata,
        'swin_backbone': __version__,
        'least_size': f'{part.least[0]}x{part.least[1]}',
        'size': 'any' if dynamic else f'{batch}x{part.in_channels}x{size[0]}x{size[1]}',
    }
    program = record(part, dynamic, batch, size)
    write = _write_onnx if to == 'onnx' else _write_program
    write(program, part, path, metadata)
    return Exported(path, dynamic, metadata, _quantise(path) if int8 else None)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a file: normalisation, channel order, classes, sizes."""
    path = Path(path)
    if path.suffix == '.onnx':
        model = _needed('onnx').load(path, load_external_data=False)
        return {entry.key: entry.value for entry in model.metadata_props}
    extra = {_METADATA: ''}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[_METADATA])


def _write_program(
    program: ExportedProgram, part: Part, path: Path, metadata: Mapping[str, str]
) -> None:
    text = json.dumps({**metadata, 'outputs': ','.join(part.outputs)})
    with replacing(path) as unfinished:
        torch.export.save(program, unfinished, extra_files={_METADATA: text})


def _write_onnx(
    program: ExportedProgram, part: Part, path: Path, metadata: Mapping[str, str]
) -> None:
    with recording_settings(), _quiet():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            input_names=['image'],
            output_names=list(part.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert onnx_program is not None  # only torch's older exporter returns None
    onnx_program.model.metadata_props.update(metadata)
    weights = sum(value.nbytes for value in program.state_dict.values())
    if weights >= _ONE_FILE:  # the first file contains the name of the second
        onnx_program.save(path, external_data=True)
        return
    with replacing(path) as unfinished:
        onnx_program.save(unfinished, external_data=False)


def _quantise(path: Path) -> Path:
    """Writes the model with int8 weights of linear layers to a second file; returns its path."""
    quantisation = _needed('onnxruntime.quantization')
    out = path.with_suffix('.int8.onnx')
    with _quiet(), replacing(out) as unfinished:
        quantisation.quantize_dynamic(
            path,
            unfinished,
            op_types_to_quantize=['MatMul', 'Gemm'],
            per_channel=True,
            weight_type=quantisation.QuantType.QInt8,
            extra_options=dict(MatMulConstBOnly=True),
        )
    return out


def _needed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(
            f"exporting to ONNX needs {name} ({error}): pip install 'swin_backbone[export]'"
        ) from error


def _check_writable(path: Path) -> None:
    """Raises before the export, which takes minutes."""
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; name a file in it')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'{path} cannot be written: there is no folder {path.parent}')
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'{path} cannot be written: {path.parent} is read-only')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings and log lines of the exporter and the quantiser."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)

"""Converts weights from any layout to any other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..argument_values import window_side
from ..errors import ArgumentError
from ..files import replacing
from . import coords_table, formats
from .resize import as_map, checked_grid, resize_bias_table, resize_position_embedding
from .safe_load import read_checkpoint
from .safetensors_files import library
from .state_dicts import find_backbone
from .tensors import check_shapes


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        source: Name of the detected layout.
        to: Name of the written layout.
        tensors: Number of tensors written.
        dropped: OpenMMLab's names of weights that the new layout has no place for: of the
            classifier, norms and mask token.
    """

    source: str
    to: str
    tensors: int
    dropped: tuple[str, ...]


def convert(
    checkpoint: Mapping[str, Any],
    to: str,
    *,
    source: str | None = None,
    prefix: str | None = None,
    ema: bool | None = None,
    window_size: int | tuple[int, int] | None = None,
    pretrain_grid: tuple[int, int] | None = None,
    source_grid: tuple[int, int] | None = None,
    dropped: list[str] | None = None,
) -> dict[str, Tensor]:
    """Converts a backbone's weights to another layout, with a classifier if both layouts have one.

    Nothing is resized by default. Tensors that need no change are not copied.

    Args:
        checkpoint: Any state dict, or the content of a file.
        to: Name of a layout in ``formats.FORMATS``.
        source: Name of the source layout; None detects it from the keys.
        prefix: Prefix of the backbone, if there are several.
        ema: True for the moving average, False for the trained weights.
        window_size: Resize V1's relative position biases to this window. V2 has no biases to
            resize; its buffers that depend on the window are computed for this one.
        pretrain_grid: Resize the absolute position embedding to this grid, (rows, columns).
        source_grid: Grid of the given absolute position embedding; required if it is not square
            and its layout does not tell.
        dropped: List to which the names of weights without a place in the new layout are added.

    Raises:
        ArgumentError: An unknown layout, or an invalid window or grid.
        CheckpointError: There is no Swin Transformer, or weights have impossible shapes; or the
            new layout has no place for weights that the features depend on, or (torchvision's V2)
            requires a window size that is unknown.
    """
    target = formats.by_name(to)
    side = None if window_size is None else window_side('window_size', window_size)
    pretrain_grid = checked_grid('pretrain_grid', pretrain_grid)
    source_grid = checked_grid('source_grid', source_grid)
    _, weights = to_openmmlab(checkpoint, source=source, prefix=prefix, ema=ema)
    _resize(weights, side, pretrain_grid, source_grid)
    return target.from_openmmlab(weights, dropped)


def to_openmmlab(
    checkpoint: Mapping[str, Any],
    *,
    source: str | None = None,
    prefix: str | None = None,
    ema: bool | None = None,
) -> tuple[formats.Layout, dict[str, Tensor]]:
    """A backbone's layout, and its weights in OpenMMLab's. Arguments as for :func:`convert`."""
    found = find_backbone(checkpoint, prefix, ema)
    layout = found.known_layout() if source is None else formats.by_name(source)
    weights = layout.to_openmmlab(found.weights)
    check_shapes(weights)
    return layout, weights


def convert_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    to: str,
    **options: Any,
) -> Conversion:
    """Converts a file.

    Args:
        src: Path or URL of a checkpoint.
        dst: Path of the new file. It is a safetensors file if its name ends in ``.safetensors``;
            otherwise it is written by ``torch.save``, with the weights under the usual key of the
            layout's owner. An existing file is replaced when the new one is complete.
        to: Name of a layout in ``formats.FORMATS``.
        options: Keyword arguments of :func:`convert`.

    Raises:
        FileNotFoundError: There is no file at ``src``, or no folder for ``dst``.
        ArgumentError, CheckpointError: As for :func:`convert`.
    """
    target = formats.by_name(to)
    dst = Path(dst)
    if dst.is_dir():
        raise ArgumentError(f'{dst} is a folder; name the file to write')
    if not dst.parent.is_dir():
        raise FileNotFoundError(f'no folder {dst.parent} to write {dst.name} to')
    where = {name: options.pop(name, None) for name in ('source', 'prefix', 'ema')}
    # Not `convert`: this frees the rest of the file, such as an optimizer's state.
    layout, weights = to_openmmlab(read_checkpoint(src), **where)
    dropped: list[str] = []
    converted = convert(weights, to, source='openmmlab', dropped=dropped, **options)
    _write(converted, dst, target)
    return Conversion(layout.name, to, len(converted), tuple(dropped))


def _resize(
    weights: dict[str, Tensor],
    window_size: int | None,
    grid: tuple[int, int] | None,
    source_grid: tuple[int, int] | None,
) -> None:
    """Resizes weights in the neutral layout in place."""
    if grid or source_grid:
        embedding = weights.get('absolute_pos_embed')
        if embedding is None:
            raise ArgumentError(
                'pretrain_grid or source_grid: there is no absolute position embedding'
            )
        if source_grid:
            embedding = as_map(embedding, source_grid)
        if grid:
            embedding = resize_position_embedding(embedding, grid)
        weights['absolute_pos_embed'] = embedding
    if window_size:
        for key, value in list(weights.items()):
            if key.endswith('relative_position_bias_table'):
                weights[key] = resize_bias_table(value, (2 * window_size - 1) ** 2)
            elif key.endswith('.attn.w_msa.logit_scale'):  # V2; the pretraining's windows remain
                table = key.removesuffix('.attn.w_msa.logit_scale') + coords_table.TABLE
                pretrained = coords_table.pretrained_window_of(weights.get(table))
                weights[table] = coords_table.table_of(window_size, pretrained)


def _write(weights: Mapping[str, Tensor], dst: Path, layout: formats.Layout) -> None:
    with replacing(dst) as unfinished:
        if dst.suffix == '.safetensors':
            tensors = {key: value.contiguous() for key, value in weights.items()}
            library().torch.save_file(tensors, unfinished, metadata={'format': 'pt'})
        else:
            content = {layout.container: dict(weights)} if layout.container else dict(weights)
            torch.save(content, unfinished)

"""From any layout of weights to any other, through OpenMMLab's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..argument_values import window_side
from ..errors import ArgumentError, CheckpointError
from ..files import replacing
from . import coordinates, formats
from .containers import unpack
from .plain import check_weights
from .resize import as_map, checked_grid, resize_bias_table, resize_position_embedding
from .safe_load import read_checkpoint
from .shards import library


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: Name of the layout that was found.
        to: Name of the layout that was written.
        tensors: Number of tensors written.
        dropped: What has no place in the new layout: classifier, norms, mask token. In
            OpenMMLab's names.
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
    """A backbone's weights in another layout; where there is a classifier, with it if it can be.

    Nothing is resized unless asked for. Tensors that need no change are the given ones.

    Args:
        checkpoint: Any state dict, or what was read from a file.
        to: Name of a layout in ``formats.FORMATS``.
        source: Name of the layout that it is in; told from the keys if None.
        prefix: Which of several backbones is meant.
        ema: True for the moving average, False for the weights as trained.
        window_size: Resize the relative position biases to this window. V2 has none to resize;
            of its files, the buffers that depend on the window are made for this one.
        pretrain_grid: Resize the absolute position embedding to this grid, (rows, columns).
        source_grid: The grid of the given absolute position embedding, where that is no square and
            its layout does not say.
        dropped: Where to add the names of what has no place in the new layout.

    Raises:
        ArgumentError: An unknown layout; a window or a grid that is none.
        CheckpointError: No Swin Transformer, or weights of impossible shapes; or the new layout
            has no place for what its features depend on, or (torchvision's V2) needs a window
            that is not known.
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
    """The layout of a checkpoint's backbone, and its weights in OpenMMLab's; arguments as above."""
    contents = unpack(checkpoint, prefix, ema)
    layout = contents.layout if source is None else formats.by_name(source)
    if layout is None:
        some = ', '.join(list(contents.weights)[:4]) or 'nothing'
        raise CheckpointError(f'nothing in it is of a known Swin layout; it holds {some}')
    weights = layout.to_openmmlab(contents.weights)
    check_weights(weights)
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
        dst: Path to write, as a safetensors file if its name ends in ``.safetensors``, else with
            ``torch.save`` under the name that the layout's owner has the weights under. What is
            there is replaced once all is written.
        to: Name of a layout in ``formats.FORMATS``.
        options: As for :func:`convert`.

    Raises:
        FileNotFoundError: No file at ``src``, or no folder for ``dst``.
        ArgumentError, CheckpointError: As for :func:`convert`.
    """
    target = formats.by_name(to)
    dst = Path(dst)
    if dst.is_dir():
        raise ArgumentError(f'{dst} is a folder; name the file to write')
    if not dst.parent.is_dir():
        raise FileNotFoundError(f'no folder {dst.parent} to write {dst.name} to')
    where = {name: options.pop(name, None) for name in ('source', 'prefix', 'ema')}
    # What the file holds beside the weights, an optimizer's state say, is let go of here.
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
    """Resizes in place what is asked for."""
    if grid or source_grid:
        embedding = weights.get('absolute_pos_embed')
        if embedding is None:
            raise ArgumentError(
                'pretrain_grid or source_grid: there is no absolute position embedding'
            )
        if source_grid:
            embedding = as_map(embedding, source_grid)
        if grid:
            embedding = resize_position_embedding(embedding, (grid[0], grid[1]))
        weights['absolute_pos_embed'] = embedding
    if window_size:
        weights |= {
            key: resize_bias_table(value, (2 * window_size - 1) ** 2)
            for key, value in weights.items()
            if key.endswith('relative_position_bias_table')
        }
        weights |= _coordinates(weights, window_size)


def _coordinates(weights: Mapping[str, Tensor], window_size: int) -> dict[str, Tensor]:
    """V2's tables for a window; the windows of the pretraining stay what they were."""
    tables = {}
    for key in weights:
        if key.endswith('.attn.w_msa.logit_scale'):
            table = key.removesuffix('.attn.w_msa.logit_scale') + coordinates.TABLE
            pretrained = coordinates.pretrained_window_of(weights.get(table))
            tables[table] = coordinates.table_of(window_size, pretrained)
    return tables


def _write(weights: Mapping[str, Tensor], dst: Path, layout: formats.Layout) -> None:
    with replacing(dst) as unfinished:
        if dst.suffix == '.safetensors':
            tensors = {key: value.contiguous() for key, value in weights.items()}
            library().torch.save_file(tensors, unfinished, metadata={'format': 'pt'})
        else:
            content = {layout.container: dict(weights)} if layout.container else dict(weights)
            torch.save(content, unfinished)

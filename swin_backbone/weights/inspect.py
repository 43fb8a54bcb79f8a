"""What a checkpoint is, told without building a model, and what loading it would resize."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from ..errors import CheckpointError
from . import coordinates, formats
from .containers import has_average, unpack
from .plain import is_plain
from .safe_load import read_checkpoint
from .stand_ins import stand_ins_in

_ATTENTION = 'stages.{}.blocks.0.attn.w_msa.'
# The variants of the papers: width, blocks and heads.
_VARIANTS: dict[tuple, str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24)): 'tiny',
    (96, (2, 2, 18, 2), (3, 6, 12, 24)): 'small',
    (128, (2, 2, 18, 2), (4, 8, 16, 32)): 'base',
    (192, (2, 2, 18, 2), (6, 12, 24, 48)): 'large',
    # V2 alone
    (352, (2, 2, 18, 2), (11, 22, 44, 88)): 'huge',
    (512, (2, 2, 42, 4), (16, 32, 64, 128)): 'giant',
}


@dataclass(frozen=True)
class Description:
    """What a checkpoint holds.

    Attributes:
        container: Names that lead to the weights in the file, ``'model'`` say; ``''`` if none.
        prefix: What stands before every key of the backbone; ``''`` if nothing.
        format: Name of the layout, as ``convert`` takes it.
        title: Whose layout it is.
        version: 1 for Swin V1, 2 for Swin V2.
        architecture: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, of V2 also ``'huge'`` and
            ``'giant'``, or None for another.
        embed_dims: Width of the first stage, or None where the file lacks the patch embedding.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        window_size: Side of the first stage's windows in tokens; None where it cannot be told.
        pretrained_window_sizes: Of V2, for each stage the side of the windows that its position
            biases were trained with, as SwinTransformerV2 takes it; () where it cannot be told.
        extra_norm_every_n_blocks: Of V2, which blocks have a third norm; 0 for none.
        patch_size: (height, width) of a patch in pixels, or None as for ``embed_dims``.
        pretrain_grid: (rows, columns) of the absolute position embedding; None without one, and
            where its positions are no square and the file does not say how they lie.
        positions: Number of positions of the absolute position embedding; 0 without one.
        in_channels: Channels of the input, or None as for ``embed_dims``.
        num_classes: Outputs of the classifier, or None without one.
        output_norms: Stages that have a norm of their output.
        ema: Whether the file also holds a moving average of the weights.
        epoch: The epoch that the file says it is of, or None.
        iteration: The iteration that the file says it is of, or None.
        parameters: Number of the backbone's weights, without classifier and derived buffers.
        dtypes: Their types, such as ``('float32',)``.
        not_read: What of the file is of classes that are not allowed, and so was not read:
            ``'args (argparse.Namespace)'``.
    """

    container: str
    prefix: str
    format: str
    title: str
    version: int
    architecture: str | None
    embed_dims: int | None
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int | None
    pretrained_window_sizes: tuple[int, ...]
    extra_norm_every_n_blocks: int
    patch_size: tuple[int, int] | None
    pretrain_grid: tuple[int, int] | None
    positions: int
    in_channels: int | None
    num_classes: int | None
    output_norms: tuple[int, ...]
    ema: bool
    epoch: int | None
    iteration: int | None
    parameters: int
    dtypes: tuple[str, ...]
    not_read: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The architecture in one line, as error messages have it."""
        parts = [f'depths={self.depths}']
        if self.embed_dims:
            parts.insert(0, f'embed_dims={self.embed_dims}')
        if self.window_size:
            parts.append(f'window_size={self.window_size}')
        if self.num_heads:
            parts.append(f'{self.num_heads[0]} heads in the first stage')
        return ('Swin V2, ' if self.version == 2 else '') + ', '.join(parts)


def describe(
    checkpoint: str | os.PathLike | Mapping[str, Any],
    *,
    prefix: str | None = None,
    ema: bool | None = None,
) -> Description:
    """Tells what a checkpoint is.

    Args:
        checkpoint: A path or URL, or what was read from one: any state dict.
        prefix: Which of several backbones in the file is meant.
        ema: True for the moving average, False for the weights as trained, None for what the
            file's owner would load.

    Raises:
        FileNotFoundError: No such file.
        CheckpointError: The file cannot be read, or holds no Swin Transformer.
    """
    if isinstance(checkpoint, str | os.PathLike):
        return describe(read_checkpoint(checkpoint), prefix=prefix, ema=ema)
    contents = unpack(checkpoint, prefix, ema)
    if contents.layout is None:
        some = ', '.join(list(contents.weights)[:4]) or 'nothing'
        raise CheckpointError(f'nothing in it is of a known Swin layout; it holds {some}')
    layout = contents.layout
    weights = {k: v for k, v in layout.renamed(contents.weights).items() if is_plain(v)}
    epoch, iteration = _progress(checkpoint)
    return Description(
        container=contents.container,
        prefix=contents.prefix,
        format=layout.name,
        title=layout.title,
        version=formats.version_of(contents.weights),
        **_geometry(weights, contents.weights),
        num_classes=_classes(weights.get('head.fc.weight')),
        ema=has_average(checkpoint),
        epoch=epoch,
        iteration=iteration,
        **_size(weights),
        not_read=tuple(f'{where} ({what})' for where, what in stand_ins_in(checkpoint).items()),
    )


def what_would_be_resized(
    description: Description, model: BaseModule | Mapping[str, Any]
) -> list[str]:
    """What would change if the checkpoint were loaded into a model.

    Args:
        description: Of the checkpoint.
        model: A SwinTransformer, or its arguments, as in a config's ``backbone``.

    Returns:
        A line for each thing that would be resized, such as ``'relative position bias: window
        7 to 12'``; empty if the file fits as it is.

    Raises:
        CheckpointError: The checkpoint is of another architecture; the message lists the
            differences.
    """
    if isinstance(model, Mapping):
        model = _built_without_weights(model)
    wanted = describe(dict(model.state_dict()))
    compared = (
        *('version', 'embed_dims', 'depths', 'num_heads', 'extra_norm_every_n_blocks'),
        *('patch_size', 'in_channels'),
    )
    differences = [
        f'{name}: found {getattr(description, name)}, wanted {getattr(wanted, name)}'
        for name in compared
        if getattr(description, name) != getattr(wanted, name)
    ]
    if bool(description.positions) != bool(wanted.positions):
        has, lacks = ('file', 'model') if description.positions else ('model', 'file')
        differences.append(f'the {has} has an absolute position embedding, the {lacks} has none')
    if differences:
        raise CheckpointError('another architecture:\n  ' + '\n  '.join(differences))

    resized = []
    # V2's position biases are functions that serve every window.
    if description.version == 1 and description.window_size != wanted.window_size:
        resized.append(
            f'relative position bias: window {description.window_size} to {wanted.window_size}'
        )
    if description.positions:
        grid, known = tuple(model.pretrain_grid), description.pretrain_grid
        if (known != grid) if known else (description.positions != grid[0] * grid[1]):
            found = f'{known[0]}×{known[1]}' if known else f'{description.positions} positions'
            resized.append(f'absolute position embedding: {found} to {grid[0]}×{grid[1]}')
    return resized


def _built_without_weights(arguments: Mapping[str, Any]) -> BaseModule:
    # Here, because the models import this package.
    from ..swin import SwinTransformer
    from ..swin_v2 import SwinTransformerV2

    kind = arguments.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    model = SwinTransformerV2 if name.endswith('V2') else SwinTransformer
    left_out = ('type', 'init_cfg', 'pretrained', '_scope_')
    arguments = {name: value for name, value in arguments.items() if name not in left_out}
    with torch.device('meta'):
        return model(**arguments)


def _geometry(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Any]:
    depths: list[int] = []
    for key in weights:
        if match := re.match(r'stages\.([0-9]{1,4})\.blocks\.([0-9]{1,4})\.', key):
            stage, block = int(match[1]), int(match[2])
            depths += [0] * (stage + 1 - len(depths))
            depths[stage] = max(depths[stage], block + 1)
    heads = tuple(_heads(weights, stage) for stage in range(len(depths)))
    embed = weights.get('patch_embed.projection.weight')
    embed = embed if embed is not None and embed.dim() == 4 else None
    width = None if embed is None else embed.shape[0]
    grid, positions = _grid(weights.get('absolute_pos_embed'))
    return dict(
        architecture=_VARIANTS.get((width, tuple(depths), heads)),
        embed_dims=width,
        depths=tuple(depths),
        num_heads=heads,
        window_size=_window(weights, own),
        pretrained_window_sizes=coordinates.pretrained_windows(weights),
        extra_norm_every_n_blocks=_extra_norms(weights),
        patch_size=None if embed is None else tuple(embed.shape[2:]),
        pretrain_grid=grid,
        positions=positions,
        in_channels=None if embed is None else embed.shape[1],
        output_norms=tuple(
            sorted({int(m[1]) for k in weights if (m := re.match(r'norm([0-9]{1,4})\.weight', k))})
        ),
    )


def _heads(weights: Mapping[str, Tensor], stage: int) -> int:
    """Heads of a stage: V1's bias table has a column for each, V2's logit scale a row; or 0."""
    table = weights.get(_ATTENTION.format(stage) + 'relative_position_bias_table')
    if table is not None and table.dim() == 2:
        return table.shape[1]
    scale = weights.get(_ATTENTION.format(stage) + 'logit_scale')
    return scale.shape[0] if scale is not None and scale.dim() == 3 else 0


def _window(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    table = weights.get(_ATTENTION.format(0) + 'relative_position_bias_table')
    if table is not None and table.dim() == 2:
        return (math.isqrt(len(table)) + 1) // 2
    # V2 has no such table, but maybe derived buffers.
    if window := coordinates.window_of(weights.get('stages.0.blocks.0' + coordinates.TABLE)):
        return window
    for key, value in own.items():
        if key.endswith('relative_position_index') and is_plain(value):
            return math.isqrt(len(value)) if value.dim() == 2 else None
    return None


def _classes(weight: Tensor | None) -> int | None:
    return None if weight is None or not weight.dim() else len(weight)


def _extra_norms(weights: Mapping[str, Tensor]) -> int:
    blocks = (
        re.match(r'stages\.[0-9]{1,4}\.blocks\.([0-9]{1,4})\.norm3\.weight', key) for key in weights
    )
    return min((int(match[1]) + 1 for match in blocks if match), default=0)


def _grid(embedding: Tensor | None) -> tuple[tuple[int, int] | None, int]:
    if embedding is None or embedding.dim() not in (3, 4):
        return None, 0
    if embedding.dim() == 4:
        rows, columns = embedding.shape[2:]
        return (rows, columns), rows * columns
    positions = embedding.shape[1]
    side = math.isqrt(positions)
    return ((side, side) if side**2 == positions else None), positions


def _size(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    backbone = [
        value
        for key, value in weights.items()
        if re.match(r'(stages|patch_embed|norm[0-9]{1,4})\.|absolute', key)
        and not key.endswith(coordinates.TABLE)
    ]
    return dict(
        parameters=sum(value.numel() for value in backbone),
        dtypes=tuple(sorted({str(value.dtype).removeprefix('torch.') for value in backbone})),
    )


def _progress(checkpoint: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Epoch and iteration: mmengine's ``meta`` has them, other files have them at the top."""
    meta = checkpoint.get('meta')
    places = [place for place in (meta, checkpoint) if isinstance(place, Mapping)]

    def first(*names: str) -> int | None:
        values = (place.get(name) for place in places for name in names)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)

    return first('epoch'), first('iter', 'iteration')

"""Describes a checkpoint from its weights, and predicts what loading it would resize."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..errors import CheckpointError
from ..options import VARIANTS_V2
from . import coords_table, formats
from .placeholders import placeholders_in
from .safe_load import read_checkpoint
from .state_dicts import find_backbone, has_average
from .tensors import is_dense

_ATTENTION = 'stages.{}.blocks.0.attn.w_msa.'
# Names of the variants by width, blocks and heads; V1's are among V2's.
_VARIANTS: dict[tuple, str] = {
    (variant['embed_dims'], variant['depths'], variant['num_heads']): name
    for name, variant in VARIANTS_V2.items()
    if len(name) > 1  # not the short form
}


@dataclass(frozen=True)
class Description:
    """The contents of a checkpoint.

    Attributes:
        container: Dotted keys that lead to the weights in the file, such as ``'model'``, or ``''``.
        prefix: Prefix of the backbone's keys, or ``''``.
        format: Name of the layout, as ``convert`` takes it.
        title: The layout's owners.
        version: 1 for Swin V1, 2 for Swin V2.
        architecture: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, for V2 also ``'huge'`` and
            ``'giant'``, or None for other architectures.
        embed_dims: Width of the first stage, or None if the file lacks the patch embedding.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage.
        window_size: Side of the first stage's windows in tokens; None if unknown.
        pretrained_window_sizes: For V2, the side of each stage's windows in pretraining, as
            SwinTransformerV2 takes it; () if unknown.
        extra_norm_every_n_blocks: For V2, which blocks have a third norm; 0 for none.
        patch_size: (height, width) of a patch in pixels, or None as for ``embed_dims``.
        pretrain_grid: (rows, columns) of the absolute position embedding; None if there is none, or
            if its grid is not square and the file does not tell it.
        positions: Number of positions of the absolute position embedding; 0 if there is none.
        in_channels: Channels of the input, or None as for ``embed_dims``.
        num_classes: Outputs of the classifier, or None if there is none.
        output_norms: Stages whose output has a norm.
        ema: Whether the file also holds a moving average of the weights.
        epoch: The epoch that the file records, or None.
        iteration: The iteration that the file records, or None.
        parameters: Number of the backbone's weights, without classifier and derived buffers.
        dtypes: Dtypes of the weights, such as ``('float32',)``.
        not_read: Objects in the file that were not read, because their classes are not allowed:
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
        """The architecture in one line, for error messages."""
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
    """Describes a checkpoint.

    Args:
        checkpoint: A path or URL, the content of a file, or any state dict.
        prefix: Prefix of the backbone, if there are several.
        ema: True for the moving average, False for the trained weights, None for the file's main
            weights.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, or holds no Swin Transformer.
    """
    if isinstance(checkpoint, str | os.PathLike):
        return describe(read_checkpoint(checkpoint), prefix=prefix, ema=ema)
    found = find_backbone(checkpoint, prefix, ema)
    layout = found.known_layout()
    weights = {k: v for k, v in layout.renamed(found.weights).items() if is_dense(v)}
    epoch, iteration = _progress(checkpoint)
    return Description(
        container=found.container,
        prefix=found.prefix,
        format=layout.name,
        title=layout.title,
        version=formats.version_of(found.weights),
        **_geometry(weights, found.weights),
        num_classes=_classes(weights.get('head.fc.weight')),
        ema=has_average(checkpoint),
        epoch=epoch,
        iteration=iteration,
        **_size(weights),
        not_read=tuple(f'{key} ({value})' for key, value in placeholders_in(checkpoint).items()),
    )


def what_would_be_resized(
    description: Description, model: BaseModule | Mapping[str, Any]
) -> list[str]:
    """Lists what would be resized if a checkpoint were loaded into a model.

    Args:
        description: The checkpoint's description.
        model: A SwinTransformer, or its arguments as in a config's ``backbone``.

    Returns:
        One line per resized item, such as ``'relative position bias: window 7 to 12'``.

    Raises:
        CheckpointError: The architectures differ; the message lists the differences.
    """
    if isinstance(model, Mapping):
        model = _on_meta_device(model)
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
    # V2 computes its position biases for any window.
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


def _on_meta_device(arguments: Mapping[str, Any]) -> BaseModule:
    """A backbone of this package without memory for its weights."""
    kind = arguments.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    # By their registered names, since the modules of the backbones import this package.
    model: Any = MODELS.get('SwinBackboneV2' if name.endswith('V2') else 'SwinBackbone')
    ignored = ('type', 'init_cfg', 'pretrained', '_scope_')
    with torch.device('meta'):
        return model(**{name: value for name, value in arguments.items() if name not in ignored})


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
        pretrained_window_sizes=coords_table.pretrained_windows(weights),
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
    """Heads of a stage, from V1's bias table or V2's logit scale; 0 if unknown."""
    table = weights.get(_ATTENTION.format(stage) + 'relative_position_bias_table')
    if table is not None and table.dim() == 2:
        return table.shape[1]
    scale = weights.get(_ATTENTION.format(stage) + 'logit_scale')
    return scale.shape[0] if scale is not None and scale.dim() == 3 else 0


def _window(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    table = weights.get(_ATTENTION.format(0) + 'relative_position_bias_table')
    if table is not None and table.dim() == 2:
        return (math.isqrt(len(table)) + 1) // 2
    # V2 has no such table, but files may hold derived buffers.
    if window := coords_table.window_of(weights.get('stages.0.blocks.0' + coords_table.TABLE)):
        return window
    for key, value in own.items():
        if key.endswith('relative_position_index') and is_dense(value):
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
        and not key.endswith(coords_table.TABLE)
    ]
    return dict(
        parameters=sum(value.numel() for value in backbone),
        dtypes=tuple(sorted({str(value.dtype).removeprefix('torch.') for value in backbone})),
    )


def _progress(checkpoint: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Epoch and iteration, from mmengine's ``meta`` or from the top level of other files."""
    meta = checkpoint.get('meta')
    places = [place for place in (meta, checkpoint) if isinstance(place, Mapping)]

    def first(*names: str) -> int | None:
        values = (place.get(name) for place in places for name in names)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)

    return first('epoch'), first('iter', 'iteration')

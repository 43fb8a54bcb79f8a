"""Loads a checkpoint of any layout into a model, or explains why it does not fit."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ..argument_values import shown
from ..errors import ArgumentError, CheckpointError
from ..ops.window_attention.positions import relative_position_index
from . import coords_table, formats
from .inspect import describe
from .resize import (
    PATCH_EMBEDDING,
    adapt_input_channels,
    as_map,
    check_input_channels,
    checked_grid,
    resize_bias_table,
    resize_position_embedding,
)
from .safe_load import read_checkpoint
from .state_dicts import FoundBackbone, container_in, find_backbone
from .tensors import is_dense, summary

_OUTPUT_NORM = re.compile(r'norm[0-9]{1,4}\.(weight|bias)')
# HTC++'s additional layer, which no published checkpoint has.
_GLOBAL_ATTENTION = 'global_attention.'
# Neutral names of weights that classifiers and masked pretraining have beside the backbone.
_NOT_BACKBONE = re.compile(r'head\.|mask_token$')
_OPTIONS = ('type', 'checkpoint', 'prefix', 'map_location', 'ema', 'in_channels', 'source_grid')


def is_pretrained(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` names a checkpoint."""
    return isinstance(init_cfg, Mapping) and (
        init_cfg.get('type') in ('Pretrained', PretrainedInit) or 'checkpoint' in init_cfg
    )


def register_state_dict_translation(model: nn.Module) -> None:
    """Lets ``load_state_dict`` of a backbone, or of a model that contains it, take all layouts."""
    model.register_load_state_dict_pre_hook(_translate)


def load_pretrained(model: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Loads all weights of the checkpoint that ``init_cfg`` names.

    Args:
        model: The backbone.
        init_cfg: ``checkpoint`` (path or URL), and optionally: ``prefix``, the prefix of the
            backbone's keys if a file holds several backbones; ``ema``, True for the moving average
            of the weights, False for the trained weights; ``in_channels``, the rule that adapts the
            patch embedding to another number of input channels
            (:func:`~swin_backbone.weights.resize.adapt_input_channels`); ``source_grid``, the
            (rows, columns) of the file's absolute position embedding, if it is not square and the
            file does not tell.

    Raises:
        ArgumentError: An unknown option.
        CheckpointError: The file cannot be read or does not fit the model. Output norms, which
            ImageNet checkpoints lack, may be missing or unexpected, and a ``global_attention``
            layer may be missing as a whole.
    """
    path = init_cfg.get('checkpoint')
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ArgumentError(
            f'init_cfg: checkpoint={shown(path)} names no file; init_cfg=None starts from scratch'
        )
    if unknown := [name for name in init_cfg if name not in _OPTIONS]:
        raise ArgumentError(
            f'init_cfg: unknown {", ".join(map(str, unknown))}; it takes {", ".join(_OPTIONS)}'
        )
    checkpoint = read_checkpoint(path)
    try:
        prefix = init_cfg.get('prefix')
        found = find_backbone(checkpoint, prefix, init_cfg.get('ema'))
        if not found.weights:
            under = f' under {prefix!r}' if prefix else ''
            raise CheckpointError(f'it holds no weights{under}')
        weights = _adapted(model, found, init_cfg)
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a CheckpointError, or torch's error of a failed copy
        raise CheckpointError(f'{path} does not fit the model: {error}') from None
    missing = [key for key in result.missing_keys if not _OUTPUT_NORM.fullmatch(key)]
    unexpected = [key for key in result.unexpected_keys if not _OUTPUT_NORM.fullmatch(key)]
    if missing or unexpected:
        raise CheckpointError(
            f'{path} is not of this architecture:'
            f'{_listed("missing in the file", missing)}{_listed("not in the model", unexpected)}'
            f'{_compared(weights, model)}'
        )
    _log(model, f'loaded {path}')


def translate_classifier(state_dict: dict[str, Any], prefix: str = '') -> None:
    """Renames the weights of a Swin classifier of any layout to mmpretrain's, in place.

    The backbone gets OpenMMLab's layout under ``backbone.`` and the classifier becomes ``head.fc``.
    A model of ``backbone`` and ``head``, a model without a classifier and a model that is not a
    Swin Transformer are not changed.

    Args:
        state_dict: A state dict, or the content of a file, that is loaded into the model.
        prefix: Prefix of the model's keys.

    Raises:
        CheckpointError: It is not a dict of tensors, or holds several backbones.
    """
    entries = formats.strip_prefix(state_dict, prefix)
    if any(key.startswith('backbone.') for key in entries):
        return
    found = find_backbone(entries)
    neutral = found.layout.to_openmmlab(found.weights) if found.layout else {}
    if 'head.fc.weight' not in neutral:
        return
    for key in entries:
        del state_dict[prefix + key]
    for key, value in neutral.items():
        below = '' if key.startswith('head.') else 'backbone.'
        state_dict[prefix + below + key] = value


def _adapted(
    model: BaseModule, found: FoundBackbone, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The weights in the neutral layout, adapted by ``init_cfg``; unchanged without a layout."""
    if found.layout is None:
        return found.weights
    weights = _backbone_weights(model, found.layout, found.weights)
    embedding, weight = weights.get('absolute_pos_embed'), weights.get(PATCH_EMBEDDING)
    grid, rule = checked_grid('source_grid', options.get('source_grid')), options.get('in_channels')
    if grid is not None and embedding is not None:
        weights['absolute_pos_embed'] = as_map(embedding, grid)
    if rule is not None and weight is not None:
        channels = model.patch_embed.in_channels
        weights[PATCH_EMBEDDING] = adapt_input_channels(weight, channels, rule)
    return weights


def _backbone_weights(
    model: BaseModule, layout: formats.Layout, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The backbone's weights in the neutral layout; an error if they are of the other version."""
    version = formats.version_of(weights)
    if version != model.version:
        name = 'SwinTransformer' if version == 1 else 'SwinTransformerV2'
        raise CheckpointError(
            f'these are weights of Swin Transformer V{version}, and the model, '
            f"{type(model).__name__}, is V{model.version}; type='{name}' takes them"
        )
    neutral = layout.to_openmmlab(weights)
    return {key: value for key, value in neutral.items() if not _NOT_BACKBONE.match(key)}


# --- the load-state-dict pre-hook -----------------------------------------------------------------


def _translate(
    model: nn.Module,
    state_dict: dict,
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    *_: Any,
) -> None:
    """Translates the entries with the backbone's prefix in place."""
    entries = formats.strip_prefix(state_dict, prefix)
    if not entries:
        _explain_no_entries(model, prefix, unexpected)
        return
    # `load_state_dict` of a backbone may be given the content of a whole file.
    found = find_backbone(entries)
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if found.layout is None:
        raise CheckpointError(
            'nothing in it is of a known Swin layout:'
            f'{_listed("found", found.weights)}{_listed("wanted", wanted)}'
        )
    weights = _backbone_weights(model, found.layout, found.weights)
    _warn_of_other_windows(model, weights)
    weights = {k: v for k, v in weights.items() if not k.endswith(coords_table.TABLE)}
    translated = _fitted(model, weights, wanted)
    if not found.layout.has_output_norms:
        own_norms = {k: v for k, v in wanted.items() if _OUTPUT_NORM.fullmatch(k) and not v.is_meta}
        translated = {**own_norms, **translated}
    translated = {**_own_global_attention(model, wanted, translated), **translated}
    for key in entries:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in translated.items()})


def _own_global_attention(
    model: nn.Module, wanted: Mapping[str, Tensor], weights: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The model's own ``global_attention`` weights, if the file has no such layer."""
    layer = {k: v for k, v in wanted.items() if k.startswith(_GLOBAL_ATTENTION)}
    if not layer or any(key.startswith(_GLOBAL_ATTENTION) for key in weights):
        return {}
    _log(model, 'not in the checkpoint, left as it is: global_attention')
    return {k: v for k, v in layer.items() if not v.is_meta}


def _explain_no_entries(model: nn.Module, prefix: str, unexpected: list[str]) -> None:
    """Reports that no key has the backbone's prefix: an error if the file is a backbone's."""
    name = type(model).__name__
    if not prefix:
        raise CheckpointError(f'{name}: nothing to load, the state dict is empty')
    # The keys that the modules around the backbone did not expect, if they were loaded before it.
    container = container_in(unexpected)
    if container or formats.detect(dict.fromkeys(unexpected)):
        whole = (
            f"; mmengine takes a whole model's weights from 'state_dict', not from {container!r}"
        )
        raise CheckpointError(
            f'{name}: nothing is under {prefix!r}, where the model has its backbone; found '
            f"{', '.join(unexpected[:4])}. If the file is a backbone's, it goes into the "
            "backbone's init_cfg=dict(type='Pretrained', checkpoint=…), not into load_from"
            f'{whole if container else ""}'
        )
    # It may be the file of a head; strict loading reports the missing keys.
    _log(model, f'nothing loaded, the checkpoint has no {prefix}*', logging.WARNING)


def _warn_of_other_windows(model: BaseModule, weights: Mapping[str, Tensor]) -> None:
    """Warns if V2's position network would be given other coordinates than in pretraining.

    Loading would succeed and the features would differ. The file's windows may be smaller than the
    model's because they shrank to the maps of its images. That is no reason to warn: the model's
    windows shrink as well on images of that size.
    """
    if not (trained := coords_table.pretrained_windows(weights)):
        return
    stages = [
        (stage.blocks[0].attn, side)
        for stage, (side, _) in zip(model.stages, model.token_sides, strict=True)
        if len(stage.blocks)
    ]
    own = tuple(a.w_msa.pretrained_window_size or a.window_size for a, _ in stages)
    if trained == own or len(trained) != len(own):
        return
    found = f'the position biases in the file were trained with windows of {trained} tokens, '
    advice = f'with pretrained_window_sizes={trained} they are read as trained'
    # The first window that is smaller than the model's may be the size of its map.
    each = list(zip(trained, own, *zip(*stages, strict=True), strict=True))
    pixels = next((t * side for t, window, _, side in each if t < window), None)
    shrunk = tuple(
        window
        if pixels is None or attention.pad_small_map or attention.w_msa.pretrained_window_size
        else min(window, max(pixels // side, 1))
        for _, window, attention, side in each
    )
    if trained == shrunk:
        _log(
            model,
            f'{found}which shrank to the maps of its images; on larger images the model reads them '
            f'as if with {own}, and {advice}',
        )
    else:
        _log(model, f'{found}and the model reads them as if with {own}; {advice}', logging.WARNING)


# --- fitting --------------------------------------------------------------------------------------


def _fitted(
    model: BaseModule, weights: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Resizes position biases and embeddings, adds position indices, and checks all shapes."""
    if getattr(model, 'takes_classifiers_norm', False):
        weights = formats.with_norm_of_last_output(weights)
    weights = {key: value for key, value in weights.items() if not key.startswith('norm.')}
    fitted, resized = {}, set()
    for key, value in weights.items():
        shape = wanted[key].shape if key in wanted else None
        if shape is not None and is_dense(value) and value.shape != shape:
            if key.endswith('relative_position_bias_table') and _is_grid(value, shape, dim=0):
                value = resize_bias_table(value, shape[0])
                resized.add('relative position bias')
            elif key == 'absolute_pos_embed' and _is_embedding(value, shape):
                same = tuple(value.shape[2:]) == tuple(model.pretrain_grid)
                value = resize_position_embedding(value, model.pretrain_grid)
                resized |= set() if same else {'absolute position embedding'}
            elif key == PATCH_EMBEDDING:
                check_input_channels(value, tuple(shape))
        fitted[key] = value
    # The index follows from the model's window. The file's may be missing or of another window, and
    # the model's has no values if it was built on the meta device.
    fitted |= {
        key: relative_position_index(math.isqrt(len(index)))
        for key, index in wanted.items()
        if key.endswith('relative_position_index')
    }

    wrong = [
        f'{key}: found {summary(value)}, wanted {summary(wanted[key])}'
        for key, value in fitted.items()
        if key in wanted and summary(value) != summary(wanted[key])
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} of {len(wanted)} tensors have another shape:'
            f'{_listed("among them", wrong)}{_compared(weights, model)}'
        )
    if resized:
        _log(model, f'resized {" and ".join(sorted(resized))}')
    return fitted


def _is_grid(value: Tensor, shape: tuple[int, ...], dim: int) -> bool:
    """Whether a tensor differs from ``shape`` only in ``dim``, which is a square grid."""
    return (
        value.dim() == len(shape)
        and value.is_floating_point()
        and all(value.shape[i] == side for i, side in enumerate(shape) if i != dim)
        and math.isqrt(value.shape[dim]) ** 2 == value.shape[dim] > 0
    )


def _is_embedding(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a position embedding differs from ``shape``, (1, H * W, C), only in its grid."""
    if value.dim() == 4:
        return tuple(value.shape[:2]) == (1, shape[2]) and value.numel() > 0
    if value.dim() == 3 and math.isqrt(value.shape[1]) ** 2 != value.shape[1]:
        as_map(value)  # raises: the grid is required
    return _is_grid(value, shape, dim=1)


# --- messages -------------------------------------------------------------------------------------


def _log(model: nn.Module, message: str, level: int = logging.INFO) -> None:
    print_log(f'{type(model).__name__}: {message}', logger='current', level=level)


def _listed(title: str, items: Iterable[str], limit: int = 8) -> str:
    items = list(items)
    if not items:
        return ''
    more = f'\n    … and {len(items) - limit} more' if len(items) > limit else ''
    return f'\n  {title} ({len(items)}):' + ''.join(f'\n    {i}' for i in items[:limit]) + more


def _compared(weights: Mapping[str, Tensor], model: nn.Module) -> str:
    """A line with the architectures of the file and of the model."""
    file, own = _architecture(weights), _architecture(model.state_dict())
    return f'\n  the file is of {file}; the model is {own}'


def _architecture(weights: Mapping[str, Tensor]) -> str:
    try:
        return str(describe(weights))
    except CheckpointError:
        return 'no Swin Transformer'

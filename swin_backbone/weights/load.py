"""From a checkpoint to a model, whatever the checkpoint's layout: fits, or says why not."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ..argument_values import shown
from ..errors import ArgumentError, CheckpointError
from ..layers.attention import relative_position_index
from . import channels, coordinates, formats
from .containers import Contents, unpack, wrapped_in
from .inspect import describe
from .plain import form, is_plain
from .resize import as_map, checked_grid, resize_bias_table, resize_position_embedding
from .safe_load import read_checkpoint

_OUTPUT_NORM = re.compile(r'norm[0-9]{1,4}\.(weight|bias)')
# The layer that HTC++ appends; no published checkpoint has it.
_GLOBAL_ATTENTION = 'global_attention.'
# What classifiers and masked pretraining bring along, in OpenMMLab's names.
_NO_BACKBONE = re.compile(r'head\.|mask_token$')
_OPTIONS = ('type', 'checkpoint', 'prefix', 'map_location', 'ema', 'in_channels', 'source_grid')


def is_pretrained(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` names a checkpoint."""
    return isinstance(init_cfg, Mapping) and (
        init_cfg.get('type') in ('Pretrained', PretrainedInit) or 'checkpoint' in init_cfg
    )


def register_state_dict_translation(model: nn.Module) -> None:
    """Lets ``load_state_dict`` of the model, or of one that holds it, take foreign layouts."""
    model.register_load_state_dict_pre_hook(_translate)


def load_pretrained(model: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Loads the checkpoint that ``init_cfg`` names, and every weight of it.

    Args:
        model: The backbone.
        init_cfg: ``checkpoint`` (path or URL), and as needed: ``prefix``, what stands before the
            keys of the backbone that is meant, where a file holds several; ``ema``, True for the
            moving average of the weights, False for the weights as trained; ``in_channels``, the
            rule that adapts the patch embedding to another number of input channels
            (:func:`~swin_backbone.weights.channels.adapt_input_channels`); ``source_grid``, the
            (rows, columns) of the file's absolute position embedding, where it is no square and
            the file does not say.

    Raises:
        ArgumentError: An option that is not known.
        CheckpointError: The file cannot be read, or is not of this model. Output norms, which
            ImageNet checkpoints lack, may be missing or left over, and a ``global_attention``
            layer may be missing as a whole; nothing else may.
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
        contents = unpack(checkpoint, init_cfg.get('prefix'), init_cfg.get('ema'))
        if not contents.weights:
            raise CheckpointError(f'it holds no weights{_under(init_cfg.get("prefix"))}')
        weights = _adapted(model, contents, init_cfg)
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a CheckpointError, or torch's of what cannot be copied
        raise CheckpointError(f'{path} does not fit the model: {error}') from None
    missing = [key for key in result.missing_keys if not _OUTPUT_NORM.fullmatch(key)]
    unexpected = [key for key in result.unexpected_keys if not _OUTPUT_NORM.fullmatch(key)]
    if missing or unexpected:
        raise CheckpointError(
            f'{path} is not of this architecture:'
            f'{_listed("missing in the file", missing)}{_listed("not in the model", unexpected)}'
            f'{_compared(weights, model)}'
        )
    print_log(f'{type(model).__name__}: loaded {path}', logger='current')


def _adapted(
    model: BaseModule, contents: Contents, options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The weights in OpenMMLab's layout, adapted as the options say; untouched if of none."""
    if contents.layout is None:
        return contents.weights
    _check_version(model, contents.weights)
    weights = _backbone_only(contents.layout, contents.weights)
    embedding, weight = weights.get('absolute_pos_embed'), weights.get(channels.KEY)
    grid, rule = checked_grid('source_grid', options.get('source_grid')), options.get('in_channels')
    if grid is not None and embedding is not None:
        weights['absolute_pos_embed'] = as_map(embedding, grid)
    if rule is not None and weight is not None:
        weights[channels.KEY] = channels.adapt_input_channels(
            weight, model.patch_embed.in_channels, rule
        )
    return weights


def _backbone_only(layout: formats.Layout, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in layout.to_openmmlab(weights).items() if not _NO_BACKBONE.match(k)}


def _check_version(model: BaseModule, weights: Mapping[str, Any]) -> None:
    """Refuses weights of V1 for a model of V2, and the other way round."""
    found = formats.version_of(weights)
    if found != model.version:
        name = 'SwinTransformer' if found == 1 else 'SwinTransformerV2'
        raise CheckpointError(
            f'these are weights of Swin Transformer V{found}, and the model, '
            f"{type(model).__name__}, is V{model.version}; type='{name}' takes them"
        )


def _warn_of_other_windows(model: BaseModule, weights: Mapping[str, Tensor]) -> None:
    """Warns if V2's position biases would be read off other coordinates than they were trained at.

    Nothing fails then, and the features are others than those of the file's owner. Windows of the
    file that are smaller because they shrank to the maps of its images are no others: the model's
    shrink on images of that size, too.
    """
    told = coordinates.pretrained_windows(weights)
    stages = [i for i, stage in enumerate(model.stages) if len(stage.blocks)] if told else []
    attentions = [model.stages[i].blocks[0].attn for i in stages]
    own = tuple(a.w_msa.pretrained_window_size or a.window_size for a in attentions)
    if told == own or len(told) != len(own):
        return
    advice = f'with pretrained_window_sizes={told} it gives what they were trained to give'
    name = type(model).__name__
    if told == _shrunk(attentions, told, [model.token_sides[i][0] for i in stages]):
        print_log(
            f'{name}: the position biases in the file were trained with windows of {told} tokens, '
            'which shrank to the maps of its images; on larger images the model reads them as if '
            f'with {own}, and {advice}',
            logger='current',
        )
    else:
        print_log(
            f'{name}: the position biases in the file were trained with windows of {told} tokens, '
            f'and the model reads them as if with {own}; {advice}',
            logger='current',
            level=logging.WARNING,
        )


def _shrunk(
    attentions: Sequence[Any], told: Sequence[int], sides: Sequence[int]
) -> tuple[int, ...]:
    """The windows that biases are read with, on maps that the windows told of may have shrunk to.

    Args:
        attentions: Of each stage.
        told: The windows of the pretraining, of each stage.
        sides: Pixels along a token of each stage.

    Returns:
        They are ``told`` where the first that is smaller than the model's is its stage's map.
    """
    windows = [a.w_msa.pretrained_window_size or a.window_size for a in attentions]
    smaller = [i for i, window in enumerate(windows) if told[i] < window]
    if not smaller:
        return tuple(windows)
    pixels = told[smaller[0]] * sides[smaller[0]]
    return tuple(
        window
        if attention.pad_small_map or attention.w_msa.pretrained_window_size
        else min(window, max(pixels // side, 1))
        for attention, window, side in zip(attentions, windows, sides, strict=True)
    )


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
    """The load-state-dict pre-hook: rewrites in place what is under ``prefix``."""
    found = formats.under(state_dict, prefix)
    if not found:
        _explain_nothing(model, prefix, unexpected)
        return
    # Also here: what is loaded into the backbone itself may be a whole file's content.
    contents = unpack(found)
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if contents.layout is None:
        raise CheckpointError(
            'nothing in it is of a known Swin layout:'
            f'{_listed("found", contents.weights)}{_listed("wanted", wanted)}'
        )
    _check_version(model, contents.weights)
    weights = _backbone_only(contents.layout, contents.weights)
    _warn_of_other_windows(model, weights)
    weights = {k: v for k, v in weights.items() if not k.endswith(coordinates.TABLE)}
    translated = _fit(model, weights, wanted)
    if not contents.layout.has_output_norms:
        absent = {k: v for k, v in wanted.items() if _OUTPUT_NORM.fullmatch(k) and not v.is_meta}
        translated = {**absent, **translated}
    translated = {**_new_layer(model, wanted, translated), **translated}
    for key in found:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in translated.items()})


def _new_layer(
    model: nn.Module, wanted: Mapping[str, Tensor], weights: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The model's own ``global_attention``, as it is, where the file has no such layer."""
    layer = {k: v for k, v in wanted.items() if k.startswith(_GLOBAL_ATTENTION)}
    if not layer or any(key.startswith(_GLOBAL_ATTENTION) for key in weights):
        return {}
    message = f'{type(model).__name__}: not in the checkpoint, left as it is: global_attention'
    print_log(message, logger='current')
    return {k: v for k, v in layer.items() if not v.is_meta}


def _explain_nothing(model: nn.Module, prefix: str, unexpected: list[str]) -> None:
    """Says that nothing is under the backbone's prefix; an error if it is a backbone's file."""
    name = type(model).__name__
    if not prefix:
        raise CheckpointError(f'{name}: nothing to load, the state dict is empty')
    # What the modules around the backbone had no place for, seen before it.
    container = wrapped_in(unexpected)
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
    # It may be a head's; strict loading goes on to say so itself.
    message = f'{name}: nothing loaded, the checkpoint has no {prefix}*'
    print_log(message, logger='current', level=logging.WARNING)


def _fit(
    model: BaseModule, weights: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Resizes what may be resized, fills in what follows from the model, refuses the rest."""
    if getattr(model, 'takes_classifiers_norm', False):
        weights = formats.with_norm_of_last_output(weights)
    weights = {key: value for key, value in weights.items() if not key.startswith('norm.')}
    fitted, resized = {}, set()
    for key, value in weights.items():
        shape = wanted[key].shape if key in wanted else None
        if shape is not None and is_plain(value) and value.shape != shape:
            if key.endswith('relative_position_bias_table') and _is_grid(value, shape, dim=0):
                value = resize_bias_table(value, shape[0])
                resized.add('relative position bias')
            elif key == 'absolute_pos_embed' and _is_embedding(value, shape):
                same = tuple(value.shape[2:]) == tuple(model.pretrain_grid)
                value = resize_position_embedding(value, model.pretrain_grid)
                resized |= set() if same else {'absolute position embedding'}
            elif key == channels.KEY:
                channels.check_input_channels(value, tuple(shape))
        fitted[key] = value
    # The index is a function of the window alone; a file's may be of another window, or absent,
    # and the model's own without values where it was built on the meta device.
    fitted |= {
        key: relative_position_index(math.isqrt(len(index)))
        for key, index in wanted.items()
        if key.endswith('relative_position_index')
    }

    wrong = [
        f'{key}: found {form(value)}, wanted {form(wanted[key])}'
        for key, value in fitted.items()
        if key in wanted and form(value) != form(wanted[key])
    ]
    if wrong:
        raise CheckpointError(
            f'{len(wrong)} of {len(wanted)} tensors have another shape:'
            f'{_listed("among them", wrong)}{_compared(weights, model)}'
        )
    if resized:
        print_log(f'{type(model).__name__}: resized {" and ".join(sorted(resized))}', 'current')
    return fitted


def _is_grid(value: Tensor, shape: tuple[int, ...], dim: int) -> bool:
    """Whether a tensor differs from ``shape`` only in ``dim``, where it is a square grid."""
    others = [i for i in range(len(shape)) if i != dim]
    return (
        value.dim() == len(shape)
        and value.is_floating_point()
        and all(value.shape[i] == shape[i] for i in others)
        and math.isqrt(value.shape[dim]) ** 2 == value.shape[dim] > 0
    )


def _is_embedding(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a position embedding differs from ``shape``, (1, H * W, C), in its grid alone."""
    if value.dim() == 4:
        return tuple(value.shape[:2]) == (1, shape[2]) and value.numel() > 0
    if value.dim() == 3 and math.isqrt(value.shape[1]) ** 2 != value.shape[1]:
        as_map(value)  # says that the grid is needed
    return _is_grid(value, shape, dim=1)


def _under(prefix: str | None) -> str:
    return f' under {prefix!r}' if prefix else ''


def _listed(title: str, items: Iterable[str], limit: int = 8) -> str:
    items = list(items)
    if not items:
        return ''
    more = f'\n    … and {len(items) - limit} more' if len(items) > limit else ''
    return f'\n  {title} ({len(items)}):' + ''.join(f'\n    {i}' for i in items[:limit]) + more


def _compared(weights: Mapping[str, Tensor], model: nn.Module) -> str:
    """A line that holds the file's architecture against the model's."""
    file, own = _architecture(weights), _architecture(model.state_dict())
    return f'\n  the file is of {file}; the model is {own}'


def _architecture(weights: Mapping[str, Tensor]) -> str:
    try:
        return str(describe(weights))
    except CheckpointError:
        return 'no Swin Transformer'

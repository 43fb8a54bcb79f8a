"""From a checkpoint to a model, whatever the checkpoint's layout: fits, or says why not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from ..errors import CheckpointError
from . import formats
from .resize import resize_bias_table, resize_position_embedding
from .safe_load import read_checkpoint

_OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')


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
        init_cfg: ``checkpoint`` (path or URL) and, if only keys under a prefix are meant,
            ``prefix``.

    Raises:
        CheckpointError: The file cannot be read, or is not of this model. Output norms, which
            ImageNet checkpoints lack, may be missing or left over; nothing else may.
    """
    path = init_cfg['checkpoint']
    state_dict = unwrap(read_checkpoint(path), init_cfg.get('prefix'))
    if not state_dict:
        raise CheckpointError(f'{path} holds no weights{_under(init_cfg.get("prefix"))}')
    try:
        result = model.load_state_dict(state_dict, strict=False)
    except CheckpointError as error:
        raise CheckpointError(f'{path} does not fit the model: {error}') from None
    missing = [key for key in result.missing_keys if not _OUTPUT_NORM.fullmatch(key)]
    unexpected = [key for key in result.unexpected_keys if not _OUTPUT_NORM.fullmatch(key)]
    if missing or unexpected:
        raise CheckpointError(
            f'{path} is not of this architecture:'
            f'{_listed("missing in the file", missing)}{_listed("not in the model", unexpected)}'
            f'{_compared(state_dict, model)}'
        )
    print_log(f'{type(model).__name__}: loaded {path}', logger='current')


def unwrap(checkpoint: Any, prefix: str | None = None) -> dict[str, Tensor]:
    """The backbone's state dict within a checkpoint.

    Looks under ``state_dict`` and ``model``, past ``module.`` and, in a whole detector's or
    segmentor's, under ``backbone.``; or under ``prefix``, where one is given.

    Raises:
        CheckpointError: The checkpoint is no dict of tensors.
    """
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
    if not isinstance(checkpoint, Mapping) or not all(isinstance(key, str) for key in checkpoint):
        raise CheckpointError(f'expected a dict of tensors, found a {type(checkpoint).__name__}')
    state_dict = {key.removeprefix('module.'): value for key, value in checkpoint.items()}
    prefix = f'{prefix.rstrip(".")}.' if prefix else 'backbone.'
    inner = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    return inner if inner or prefix != 'backbone.' else state_dict


def _translate(model: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
    """The load-state-dict pre-hook: rewrites in place what is under ``prefix``."""
    found = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if not found:
        return
    weights = unwrap(found) if not prefix else found
    wanted = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    layout = formats.detect(weights)
    if layout is None:
        raise CheckpointError(
            'nothing in it is of a known Swin layout:'
            f'{_listed("found", weights)}{_listed("wanted", wanted)}'
        )
    translated = _fit(model, layout.to_openmmlab(weights), wanted)
    if not layout.HAS_OUTPUT_NORMS:
        absent = {k: v for k, v in wanted.items() if _OUTPUT_NORM.fullmatch(k)}
        translated = {**absent, **translated}
    for key in found:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in translated.items()})


def _fit(
    model: nn.Module, weights: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Resizes what may be resized, fills in what follows from the model, refuses the rest."""
    fitted, resized = {}, set()
    for key, value in weights.items():
        shape = wanted[key].shape if key in wanted else None
        if key.endswith('relative_position_index'):
            continue
        if shape is not None and isinstance(value, Tensor) and value.shape != shape:
            if key.endswith('relative_position_bias_table') and _is_grid(value, shape, dim=0):
                value = resize_bias_table(value, shape[0])
                resized.add('relative position bias')
            elif key == 'absolute_pos_embed' and _is_grid(value, shape, dim=1):
                value = resize_position_embedding(value, model.pretrain_grid)
                resized.add('absolute position embedding')
        fitted[key] = value
    # The index is a function of the window alone; a file's may be of another window, or absent.
    fitted |= {k: v for k, v in wanted.items() if k.endswith('relative_position_index')}

    wrong = [
        f'{key}: found {_shape(value)}, wanted {_shape(wanted[key])}'
        for key, value in fitted.items()
        if key in wanted and _shape(value) != _shape(wanted[key])
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
        and all(value.shape[i] == shape[i] for i in others)
        and math.isqrt(value.shape[dim]) ** 2 == value.shape[dim] > 0
    )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f'a {type(value).__name__}'


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
    file, own = architecture(weights), architecture(model.state_dict())
    return f'\n  the file is of {file or "no Swin Transformer"}; the model is {own}'


def architecture(state_dict: Mapping[str, Tensor]) -> str:
    """Width, depths and window of the backbone a state dict is of, for messages; '' if of none."""
    layout = formats.detect(state_dict)
    if layout is None:
        return ''
    weights = layout.to_openmmlab(state_dict)
    blocks = {m.groups() for k in weights if (m := re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', k))}
    depths = [
        sum(stage == str(i) for stage, _ in blocks) for i in range(len({s for s, _ in blocks}))
    ]
    parts = [f'depths={tuple(depths)}']
    if isinstance(embed := weights.get('patch_embed.projection.weight'), Tensor):
        parts.insert(0, f'embed_dims={embed.shape[0]}')
    table = weights.get('stages.0.blocks.0.attn.w_msa.relative_position_bias_table')
    if isinstance(table, Tensor) and table.dim() == 2:
        parts.append(f'window_size={(math.isqrt(len(table)) + 1) // 2}')
        parts.append(f'{table.shape[1]} heads in the first stage')
    return ', '.join(parts)

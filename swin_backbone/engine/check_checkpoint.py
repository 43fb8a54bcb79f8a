"""Checks that a checkpoint has what a test or a resumed run needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import CheckpointHook
from torch import nn

from ..errors import CheckpointError
from .class_counts import Count, counts_of, named_parts, unwrapped

_LISTED = 4
# Parts that resize weights when they are loaded.
_FITTING = {'backbone', 'image_encoder', 'text_encoder', 'language_model'}
# Parameters that a Swin resizes when it loads weights, which an optimizer does not.
_RESIZED = ('relative_position_bias_table', 'absolute_pos_embed')
# Options by which optimizers are distinguished.
_KINDS = ('betas', 'momentum')


def check_tested(checkpoint: Mapping[str, Any], model: nn.Module, config: Mapping) -> None:
    """Checks that a checkpoint has the heads of the detector or segmentor to be tested.

    mmengine leaves a layer of another size as initialized and logs a warning. The test then scores
    near 0.

    Args:
        checkpoint: The content of the file.
        model: The model.
        config: The config of the model.

    Raises:
        CheckpointError: A layer outside the backbone has another size, or a head is missing.
    """
    weights, model = _weights(checkpoint), unwrapped(model)
    if weights is None:
        return
    counts = counts_of(model, config)
    if sizes := _other_sizes(weights, model):
        raise CheckpointError(
            f'the checkpoint does not fit the model:\n{_listed(sizes)}\n'
            + _classes(checkpoint, sizes, counts)
            + 'test a checkpoint with the config that it was trained with'
        )
    if hasattr(model, 'head'):  # a classifier's file may be in any layout
        return
    absent = [part for part in _heads(counts) if not _has(weights, model, part)]
    if absent:
        raise CheckpointError(
            f'the checkpoint has no weights of {", ".join(absent)}: it is of another model, or '
            'only of a backbone. Load a backbone with model.backbone.init_cfg, and train the model'
        )


def check_resumable(content: Any, name: str, optimizer: bool = True) -> None:
    """Checks that a file is a training checkpoint of mmengine's.

    Args:
        content: The content of the file.
        name: The file's name.
        optimizer: Whether an optimizer's state is needed.

    Raises:
        CheckpointError: It is not one; the message lists what is missing.
    """
    whole = content if isinstance(content, Mapping) else {}
    meta = whole.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    lacks = [f'meta.{key}' for key in ('epoch', 'iter') if key not in meta]
    needed = ('state_dict', 'message_hub', *(['optimizer'] if optimizer else []))
    lacks += [key for key in needed if key not in whole]
    if not lacks:
        return
    kind = 'it contains only weights' if 'optimizer' not in whole else 'another program wrote it'
    if 'mmcv_version' in meta or 'mmdet_version' in meta or 'mmseg_version' in meta:
        kind = "it is of mmcv's Runner, which MMDetection 2 and MMSegmentation 0 had"
    raise CheckpointError(
        f'{name} is no checkpoint to resume from: it has no {", ".join(lacks)} ({kind}). Without '
        f'--resume, load_from={name} starts a training from its weights'
    )


def check_resumed(checkpoint: Mapping[str, Any], runner: Any) -> None:
    """Checks that a training checkpoint fits the run's model and optimizer.

    Args:
        checkpoint: The content of the file.
        runner: A Runner that has built its model and optimizer.

    Raises:
        CheckpointError: It does not fit, or is no training checkpoint.
    """
    name = str(runner._load_from or runner._resume)
    if 'state_dict' in checkpoint or 'meta' not in checkpoint:
        check_resumable(checkpoint, name, optimizer=saves_optimizer(runner))
    weights, model = _weights(checkpoint), unwrapped(runner.model)
    if weights is None or _is_sharded(runner.model):
        return
    sizes = _other_sizes(weights, model, resized=True)
    other = list(_other_optimizer(checkpoint.get('optimizer'), runner.optim_wrapper))
    if not sizes and not other:
        return
    raise CheckpointError(
        f'{name} is of another run:\n'
        + '\n'.join([*([_listed(sizes)] if sizes else []), *(f'  {line}' for line in other)])
        + '\n'
        + _classes(checkpoint, sizes, counts_of(model, runner.cfg))
        + 'a run is resumed with the config that it began with. Without --resume, '
        f'load_from={name} starts a training from the weights that fit'
    )


def saves_optimizer(runner: Any) -> bool:
    """Whether a run's checkpoints contain the optimizer's state."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return all(hook.save_optimizer for hook in hooks)


def _weights(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The weights by name, as mmengine finds them; None if there are none."""
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping):
        return None
    return {str(k).removeprefix('module.'): v for k, v in weights.items() if hasattr(v, 'shape')}


def _other_sizes(
    weights: Mapping[str, Any], model: nn.Module, resized: bool = False
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes in file and model of weights outside the backbone whose shapes differ.

    Args:
        weights: The file's weights.
        model: The model.
        resized: Whether to include weights that the backbone resizes.
    """
    if _is_sharded(model):
        return {}
    found = {}
    for key, value in model.state_dict().items():
        inside = bool(_FITTING & set(key.split('.')))
        if key not in weights or (inside and not (resized and key.endswith(_RESIZED))):
            continue
        if tuple(weights[key].shape) != tuple(value.shape):
            found[key] = tuple(weights[key].shape), tuple(value.shape)
    return found


def _is_sharded(model: nn.Module) -> bool:
    """Whether the model is FSDP's, whose parameters have other shapes."""
    return any('FullySharded' in type(module).__name__ for module in model.modules())


def _listed(sizes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    lines = [f'  {key}: {was} in the file, {has} here' for key, (was, has) in sizes.items()]
    more = [f'  and {len(lines) - _LISTED} more'] if len(lines) > _LISTED else []
    return '\n'.join([*lines[:_LISTED], *more])


def _classes(
    checkpoint: Mapping[str, Any],
    sizes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    counts: list[Count],
) -> str:
    """A line on the numbers of classes, if they explain the difference."""
    for count in counts:
        part = _part(count)
        for key, (was, has) in sizes.items():
            number = _number_of_classes(was, has, count.value)
            if f'{key}.'.startswith(f'{part}.') and number not in (None, count.value):
                meta = checkpoint.get('meta')
                known = (meta or {}).get('dataset_meta') if isinstance(meta, Mapping) else None
                names = (known or {}).get('classes') if isinstance(known, Mapping) else None
                listed = ''
                if isinstance(names, list | tuple) and len(names) == number:
                    listed = f' ({", ".join(map(str, names[:6]))}{", …" if number > 6 else ""})'
                return f'the file is for {number} classes{listed}, {count.option} = {count.value}\n'
    return ''


def _number_of_classes(was: tuple[int, ...], has: tuple[int, ...], number: int) -> int | None:
    """The number of classes that explains a layer's size in the file; None if none does."""
    if not was or not has or was[1:] != has[1:]:
        return None
    for beside in (1, 0):
        each, rest = divmod(has[0] - beside, number)
        if not rest and each > 0 and (was[0] - beside) % each == 0 and (beside == 0 or each == 1):
            return (was[0] - beside) // each
    return None


def _heads(counts: list[Count]) -> list[str]:
    """The names of the modules that have classes and are needed for a test."""
    parts = [_part(count) for count in counts if not count.weights]
    needed = [part for part in parts if 'loss' not in part and 'auxiliary_head' not in part]
    return list(dict.fromkeys(needed))


def _part(count: Count) -> str:
    """The name of the module of a count."""
    return count.option.rpartition('.')[0].removeprefix('model.').removeprefix('module.')


def _has(weights: Mapping[str, Any], model: nn.Module, part: str) -> bool:
    """Whether a file has a weight of a part; True for a part without weights."""
    own = any(
        f'{name}.'.startswith(f'{part}.') and next(module.parameters(False), None) is not None
        for name, module in named_parts(model)
    )
    return not own or any(key.startswith(f'{part}.') for key in weights)


def _other_optimizer(saved: Any, wrapper: Any) -> Iterator[str]:
    """The differences between the run's optimizer and the saved one."""
    optimizer = getattr(wrapper, 'optimizer', None)
    groups = saved.get('param_groups') if isinstance(saved, Mapping) else None
    if optimizer is None or not groups:
        return
    was, has = groups[0], optimizer.param_groups[0]
    for kind in _KINDS:
        if (kind in was) != (kind in has):
            yield f'its optimizer is not a {type(optimizer).__name__}: optim_wrapper.optimizer'
            return
    sizes = [[len(group['params']) for group in g] for g in (groups, optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        yield (
            f'its optimizer has {sum(sizes[0])} parameters in {len(sizes[0])} groups, this run '
            f'{sum(sizes[1])} in {len(sizes[1])}: check the model, its frozen parts, '
            'optim_wrapper.paramwise_cfg or optim_wrapper.constructor'
        )

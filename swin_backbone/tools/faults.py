"""Explains errors of configs and models by naming the option at fault."""

from __future__ import annotations

import importlib
import importlib.util
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..arguments import DELETE, LEFT_OVER
from ..errors import ArgumentError, CheckpointError
from .configs import DOCTOR, EXTRAS, install_advice

# Options of mmdet 2, mmseg 0 and mmcls, which mmengine's Runner does not know.
_FORMER = ('runner', 'total_epochs', 'total_iters', 'optimizer_config', 'lr_config')
_FORMER_DATA = ('samples_per_gpu', 'workers_per_gpu')
_LONGEST = 300  # characters of another package's message


# --- configs -------------------------------------------------------------------------------------


def why_not_built(content: Mapping[str, Any], name: Any, error: Exception) -> str:
    """The message for a config whose model cannot be built.

    Args:
        content: The config, its bases merged.
        name: What the message calls it.
        error: The exception of the model's constructor.
    """
    said, left_over = _said(error), next(_left_over(content.get('model'), 'model'), '')
    if left_over and DELETE in said:
        said = left_over
    elif option := _option_being_built(content, error):
        said = f'{option}: {said}'
    advice = _advice(content, error)
    return f'the model of {name} cannot be built: {said}{f"; {advice}" if advice else ""}'


def _advice(content: Mapping[str, Any], error: Exception) -> str:
    if former := written_for_former(content):
        return former
    return (_scope_advice(content) or DOCTOR) if isinstance(error, KeyError | ImportError) else ''


def _option_being_built(content: Mapping[str, Any], error: BaseException) -> str:
    """The option of the part whose constructor raised; ``''`` for the model itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = [
        type(f.f_locals.get('self')).__name__ for f in frames if f.f_code.co_name == '__init__'
    ]
    # If the arguments do not match the signature, the constructor has no frame.
    uncalled = re.match(r'(\w+)\.__init__\(\)', str(error))
    for kind in [*([uncalled[1]] if uncalled else []), *reversed(built)]:
        paths = list(_paths_of(kind, content['model'], 'model'))
        if len(paths) == 1:
            return paths[0] if paths != ['model'] else ''
    return ''


def _paths_of(kind: str, node: Any, path: str) -> Iterator[str]:
    """The options whose ``type`` has a given name."""
    for place, settings in _dicts(node, path):
        named = settings.get('type')
        if str(getattr(named, '__name__', named)).rpartition('.')[2] == kind:
            yield place


def written_for_former(content: Mapping[str, Any]) -> str:
    """A message if a config is for mmdet 2 or mmseg 0, which points to the docs; else ``''``."""
    data = content.get('data')
    found = [f'data.{key}' for key in _FORMER_DATA if isinstance(data, Mapping) and key in data]
    found += [key for key in _FORMER if key in content]
    if not found or 'train_dataloader' in content:
        return ''
    return (
        f'the config is written for mmdet 2 or mmseg 0 ({", ".join(found)}): docs/migrate.md, '
        '"From the official detection or segmentation code", says what its options are today'
    )


def _scope_advice(content: Mapping[str, Any]) -> str:
    """Advice on ``default_scope``, if another framework has the model's class."""
    scope = content.get('default_scope')
    if scope in EXTRAS and (how := install_advice(scope)):
        return how
    kind = content['model'].get('type')
    others = [name for name in EXTRAS if name != scope and _has_model(name, kind)]
    if scope is None:
        choice = others[0] if len(others) == 1 else 'mmdet'
        rest = '' if len(others) == 1 else ", or the framework's that the model is of"
        return f'the config has no default_scope: add default_scope={choice!r}{rest}'
    if others:
        return f'{kind} is a model of {others[0]}: set default_scope={others[0]!r}'
    return ''


def _has_model(framework: str, kind: Any) -> bool:
    if importlib.util.find_spec(framework) is None:
        return False
    try:
        importlib.import_module(f'{framework}.models')
        models = importlib.import_module(f'{framework}.registry').MODELS
    except Exception:  # a broken installation may raise anything; `doctor` reports it
        return False
    return kind in models.module_dict


def _left_over(node: Any, path: str) -> Iterator[str]:
    """A message for each ``_delete_`` left in a config; merging with a base would remove it."""
    return (f'{place}: {LEFT_OVER}' for place, settings in _dicts(node, path) if DELETE in settings)


def _dicts(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The dicts in a part of a config, each with its option."""
    if isinstance(node, Mapping):
        yield path, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _dicts(value, f'{path}.{key}')


def _said(error: Exception) -> str:
    """An error's message as one line, preceded by its class unless it is one of this package's."""
    if isinstance(error, ArgumentError | CheckpointError):
        return str(error)
    # The text of a KeyError is its argument's repr.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    first = text.partition('\n')[0].partition('. Please check whether')[0]  # advice by mmengine
    if not first and (frames := traceback.extract_tb(error.__traceback__)):
        first = frames[-1].line or ''  # an assertion without a message
    first = first if len(first) <= _LONGEST else f'{first[:_LONGEST]}…'
    return f'{type(error).__name__}: {first}' if first else type(error).__name__


# --- models --------------------------------------------------------------------------------------


def explain(error: Exception) -> str:
    """An error as one line, with the part of the model or pipeline that raised it.

    The part is the module or transform that was running according to the traceback.
    """
    said = _said(error)
    found = failing_part(error)
    if found is None:
        step = _failing_transform(error)
        return said if step is None else f'the step {step} of the test pipeline failed: {said}'
    model, path = found
    option = _option(model, path)
    if not option:
        return f'the model, a {type(model).__name__}, failed{_on_what(error, model)}: {said}'
    inner = f' in {path}' if path != option else ''
    mismatch = channel_mismatch(model, option)
    return (
        f'model.{option}, a {type(model.get_submodule(option)).__name__}, failed{inner}: {said}'
        f'{f"; {mismatch}" if mismatch else ""}'
    )


def failing_part(error: BaseException) -> tuple[nn.Module, str] | None:
    """The model that raised an error, and the name of its module that was running.

    The name is ``''`` for the model itself. Returns None if no model was running.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    running = [f.f_locals.get('self') for f in frames]
    models = [model for frame in frames for model in _models_in(frame.f_locals)]
    for model in models:
        names = {id(module): name for name, module in model.named_modules()}
        inner = [names[id(one)] for one in reversed(running) if id(one) in names]
        if inner:
            # The innermost one: methods of a part may call methods of the model.
            return model, inner[0]
    return None


def _on_what(error: BaseException, model: nn.Module) -> str:
    """The shape of the model's input, if a local variable of its methods has it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_locals.get('self') is model:
            for value in frame.f_locals.values():
                if isinstance(value, Tensor) and value.dim() == 4:
                    return f' on an input of shape {tuple(value.shape)}'
    return ''


def _models_in(variables: Mapping[str, Any]) -> Iterator[nn.Module]:
    """Whole models among a function's variables and the attributes of its ``self``."""
    own = variables.get('self')
    attributes = {} if isinstance(own, nn.Module) else getattr(own, '__dict__', {})
    for value in (*variables.values(), *attributes.values()):
        if isinstance(value, nn.Module) and 'backbone' in value._modules:
            yield value


def _option(model: nn.Module, path: str) -> str:
    """The option of a config, below ``model``, that describes a module."""
    first, *rest = path.split('.')
    option = first
    for name in rest:
        if option != 'roi_head' and not isinstance(model.get_submodule(option), nn.ModuleList):
            break
        option += f'.{name}'
    return option


def _failing_transform(error: BaseException) -> str | None:
    """The innermost running transform of a pipeline."""
    running = [f.f_locals.get('self') for f, _ in traceback.walk_tb(error.__traceback__)]
    named = [type(step).__name__ for step in running if callable(getattr(step, 'transform', None))]
    return named[-1] if named else None


def channel_mismatch(model: nn.Module, part: str, given: Sequence[int] = ()) -> str:
    """A message if a neck or head is configured for other channels than its inputs have.

    Args:
        model: A detector, segmentor or classifier.
        part: The name of its neck or head.
        given: Channels of the part's inputs. If empty, they are derived from the neck's
            ``out_channels``, or from the backbone if that is a Swin.

    Returns:
        The message, or ``''`` if there is no mismatch or the channels are unknown.
    """
    module = model.get_submodule(part)
    taken = getattr(module, 'in_channels', None)
    maps = _chosen(module, list(given) or _channels_before(model, part))
    if not maps or not isinstance(taken, int | Sequence) or isinstance(taken, str):
        return ''
    if isinstance(taken, int) and len(set(maps)) == 1:  # one head for maps of equal width
        maps = maps[:1]
    wanted = [taken] if isinstance(taken, int) else list(taken)
    if wanted == maps:
        return ''
    right = maps[0] if isinstance(taken, int) and len(maps) == 1 else maps
    return (
        f'model.{part} is given {right} channels, and is set to {taken}: set '
        f'model.{part}.in_channels={right}'
    )


def _channels_before(model: nn.Module, part: str) -> list[int]:
    """Channels of a part's inputs according to the settings of what comes before it."""
    neck, backbone = model._modules.get('neck'), model._modules.get('backbone')
    if neck is not None and part != 'neck':
        width = getattr(neck, 'out_channels', None)
        return [width] if isinstance(width, int) else []
    widths = getattr(backbone, 'num_features', None)
    if not isinstance(widths, Sequence):
        return []
    return [widths[i] for i in sorted(getattr(backbone, 'out_indices', ()))]


def _chosen(head: nn.Module, maps: list[int]) -> list[int]:
    """Channels of the maps that a head of mmseg selects, after it combines them."""
    index = getattr(head, 'in_index', None)
    if isinstance(index, int):
        maps = maps[index:][:1]
    elif isinstance(index, Sequence):
        maps = [maps[i] for i in index if i < len(maps)]
    return [sum(maps)] if getattr(head, 'input_transform', None) == 'resize_concat' else maps

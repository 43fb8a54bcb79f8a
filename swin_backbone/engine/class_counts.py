"""The numbers of classes in a model, and the config options that set them.

A recipe sets the number in several places, and the frameworks do not compare them. mmdet's
``NumClassCheckHook`` compares the attribute ``num_classes`` of every module, which is wrong for
panoptic heads, class-agnostic mask heads and semantic branches, and it names no option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

# Segments that wrappers insert into a module's name.
_WRAPPERS = {
    *('_fsdp_wrapped_module', '_checkpoint_wrapped_module', '_forward_module', '_orig_mod'),
}
# Parts that count something else: proposals, or identities of persons.
_OTHERS = {'backbone', 'neck', 'rpn_head', 'reid', 'tracker'}
# Options whose name differs from the module's.
_ALIASES = {
    **{'student': 'detector', 'teacher': 'detector'},  # semi-supervised detectors
    **{'bbox_head': 'rpn_head', 'loss_module': 'loss'},
}
_OF_PIXELS = {'decode_head', 'auxiliary_head'}


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: The names of all classes.
        things: The number of thing classes of panoptic data; else None.
        stuff: The number of stuff classes of panoptic data; else None.
    """

    names: tuple[str, ...]
    things: int | None = None
    stuff: int | None = None


@dataclass(frozen=True)
class Count:
    """A number of classes in a model.

    Attributes:
        option: The option of the config that sets it, dotted.
        value: The number, or the number of values that the option lists.
        of: What is counted: ``'classes'``; ``'objects'``, which are only the things of panoptic
            data; ``'stuff'``; or ``'labels'`` of a semantic branch, for which a data set has no
            names.
        beside: Allowed additions to the classes: 1 for background or "no object".
        weights: The values of an option with one value per class; else ().
        at_most: Whether a smaller number is allowed.
        one_channel: Whether 1 is allowed for two classes.
        ignored: The label that a segmentation head ignores; None for other heads.
    """

    option: str
    value: int
    of: str = 'classes'
    beside: tuple[int, ...] = (0,)
    weights: tuple[float, ...] = ()
    at_most: bool = False
    one_channel: bool = False
    ignored: int | None = None

    def wanted(self, classes: Classes) -> int | None:
        """The number that these classes need; None if the number is right."""
        if self.of == 'labels':
            return None
        number = len(classes.names)
        if self.of == 'objects' and classes.things is not None:
            number = classes.things
        elif self.of == 'stuff':
            number = classes.stuff or 0
        right = {number + beside for beside in self.beside}
        if self.one_channel and number == 2:
            right.add(1)
        if self.value in right or (self.at_most and self.value < number):
            return None
        return number + self.beside[-1]


def unwrapped(model: Any) -> Any:
    """The model inside a distributed wrapper or a model for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def counts_of(model: nn.Module, settings: Mapping[str, Any] | None = None) -> list[Count]:
    """The numbers of classes in a model, in the order of its modules.

    A number that a part copies from another part is left out, because no option sets it.

    Args:
        model: A detector, segmentor or classifier.
        settings: The config of the model; without ``model`` in it, options are named after modules.
    """
    model = unwrapped(model)
    # With open vocabularies, classes are words, and the numbers are those of a text's tokens.
    if hasattr(model, 'language_model') or hasattr(model, 'text_encoder'):
        return []
    found: dict[str, tuple[Count, bool]] = {}
    for name, module in named_parts(model):
        place = _place(settings or {}, name.split('.')) if name else None
        if place is None or _OTHERS & {*name.split('.'), *place.option.split('.')}:
            continue
        for count in _counts(module, place):
            explicit = count.option.rpartition('.')[2] in place.node
            found.setdefault(count.option, (count, explicit))
    return [
        count
        for option, (count, explicit) in found.items()
        if explicit or not any(_holds(option, other) for other in found)
    ]


def named_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A model's modules by name, without the segments that wrappers insert."""
    seen = set()
    for name, module in model.named_modules():
        name = '.'.join(part for part in name.split('.') if part not in _WRAPPERS)
        if name not in seen:
            seen.add(name)
            yield name, module


@dataclass(frozen=True)
class _Place:
    """The place of a module's settings in the config.

    Attributes:
        option: The option that holds the settings.
        node: The settings; {} if they are unknown.
        known: Whether there is a config.
    """

    option: str
    node: Mapping[str, Any]
    known: bool = True


def _place(settings: Mapping[str, Any], parts: Sequence[str]) -> _Place | None:
    """The place of a module's settings; None if the config has none."""
    node: Any = settings.get('model')
    if not isinstance(node, Mapping):
        return _Place('.'.join(['model', *parts]), {}, known=False)
    option = 'model'
    if isinstance(node.get('module'), Mapping):  # test-time augmentation
        node, option = node['module'], 'model.module'
    if parts == ['data_preprocessor'] and settings.get('data_preprocessor'):
        return _Place(
            'data_preprocessor', settings['data_preprocessor']
        )  # a Runner passes it to the model
    for part in parts:
        if isinstance(node, Mapping):
            key = part if part in node else _ALIASES.get(part, part)
            if key not in node:
                if part.isdigit():  # one dict for all modules of a list
                    continue
                return None
            node, option = node[key], f'{option}.{key}'
        elif isinstance(node, Sequence) and part.isdigit() and int(part) < len(node):
            node, option = node[int(part)], f'{option}.{part}'
        else:
            return None
    return _Place(option, node) if isinstance(node, Mapping) else None


def _holds(option: str, other: str) -> bool:
    """Whether an option's part contains another option's part, except for losses."""
    owner, _, _ = option.rpartition('.')
    inner, _, _ = other.rpartition('.')
    rest = inner.removeprefix(f'{owner}.')
    return inner != rest and not rest.startswith('loss')


def _counts(module: nn.Module, place: _Place) -> Iterator[Count]:
    """The numbers of one module and of the class weights of its losses."""
    if _is_segmenting(place):
        if not hasattr(module, 'boundary_threshold'):  # STDCHead's classes are edge and no edge
            yield from _of_segmentor(module, place)
        return
    things: Any = getattr(module, 'num_things_classes', None)
    stuff: Any = getattr(module, 'num_stuff_classes', None)
    if things is not None:
        yield Count(f'{place.option}.num_things_classes', things, 'objects')
        yield Count(f'{place.option}.num_stuff_classes', stuff, 'stuff')
        yield from _weights(module, place, 'classes', (1,))
        return
    if getattr(module, 'class_agnostic', False):
        return
    number = _whole(module, 'num_classes')
    if number is None:
        number = _whole(place.node, 'num_classes')
    if number is not None:
        of = 'labels' if _is_semantic(module) else 'objects'
        ignored = _ignored(module) if of == 'labels' else None
        yield Count(f'{place.option}.num_classes', number, of, ignored=ignored)
        yield from _weights(module, place, of, _beside(module, number))
    best: Any = getattr(module, 'topk', None)
    if getattr(module, 'cal_acc', False) and best:
        yield Count(f'{place.option}.topk', max(best), at_most=True)


def _of_segmentor(module: nn.Module, place: _Place) -> Iterator[Count]:
    number = _whole(module, 'num_classes')
    if number is None:
        return
    single = getattr(module, 'out_channels', None) == 1
    option, ignored = f'{place.option}.num_classes', _ignored(module)
    yield Count(option, number, one_channel=single, ignored=ignored)
    if not single:
        masks = hasattr(module, 'cls_embed')  # MaskFormer's heads also have "no object"
        yield from _weights(module, place, 'classes', (int(masks),))


def _weights(head: nn.Module, place: _Place, of: str, beside: tuple[int, ...]) -> Iterator[Count]:
    """The lengths of the class weights of a head's losses."""
    for name, loss in head.named_modules():
        weights: Any = getattr(loss, 'class_weight', None)
        if not name.startswith('loss') or not hasattr(weights, '__len__'):
            continue
        inner = _place({'model': place.node}, name.split('.')) if place.known else None
        if inner is None and place.known:
            continue
        option = inner.option.removeprefix('model.') if inner else name
        # A head may turn one weight into a list.
        if inner and not isinstance(inner.node.get('class_weight'), Sequence):
            continue
        option = f'{place.option}.{option}.class_weight'
        values = tuple(map(float, weights))
        yield Count(option, len(values), of, beside, values)


def _beside(head: Any, number: int) -> tuple[int, ...]:
    """The number of outputs of a detector's or classifier's head in addition to its classes."""
    if hasattr(head, 'cls_out_channels'):
        return (head.cls_out_channels - number,)
    if hasattr(head, 'fc_cls'):
        return (0 if getattr(head.loss_cls, 'use_sigmoid', False) else 1,)
    return (0, 1)


def _whole(holder: Any, name: str) -> int | None:
    """The positive integer of this name; None if there is none."""
    value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _ignored(head: nn.Module) -> int:
    """The label that a segmentation head ignores."""
    for holder in (head, getattr(head, 'criterion', None)):
        if isinstance(label := getattr(holder, 'ignore_index', None), int):
            return label
    return 255


def _is_segmenting(place: _Place) -> bool:
    return bool(_OF_PIXELS & set(place.option.split('.')))


def _is_semantic(module: nn.Module) -> bool:
    names = {kind.__name__ for kind in type(module).__mro__}
    return bool(names & {'FusedSemanticHead', 'BaseSemanticHead'})

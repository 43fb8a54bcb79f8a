"""Parameters and FLOPs of a model, part by part, counted on the meta device.

The convention is that of the papers' tables. A multiply-add counts as one FLOP; only convolutions,
linear layers and the matrix products of attention count. The network is that of inference, without
auxiliary heads; detectors have 1000 boxes per box head and 100 per mask head. V2's position bias,
which depends only on weights, is not counted: it is computed once.

The official code pads the feature map to whole windows before the qkv projection, so that padded
tokens are projected as well. The operator of this package uses the projection's bias for them
instead. Therefore there are two counts: ``flops`` includes the projections of padded tokens, as
published numbers do; ``flops_executed`` does not.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from ..errors import ArgumentError
from ..layers import WindowMSAV2
from ..ops.backends import use_backend
from ..ops.sizes import padded_tokens
from ..ops.window_attention.operator import attention_flops
from .faults import channel_mismatch

BOXES, MASKS = 1000, 100  # per box head and per mask head, as in mmdet's count
DETECTION, SEGMENTATION, CLASSIFICATION = (800, 1280), (512, 512), (224, 224)

# Names in the frameworks' models of heads whose only input is the feature maps.
_DENSE_HEADS = ('rpn_head', 'bbox_head', 'mask_head', 'seg_head', 'decode_head', 'head')
_TRAINING_ONLY = re.compile(r'auxiliary_head\b')


@dataclass
class Part:
    """A part of a model: the numbers of its parameters and multiply-adds."""

    name: str
    params: int
    flops: int = 0
    flops_executed: int = 0
    ran: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class Complexity:
    """The result of :func:`complexity`; the totals are the sums over ``parts``."""

    shape: tuple[int, ...]  # (channels, height, width)
    parts: list[Part]

    @property
    def params(self) -> int:
        """All parameters, including those of auxiliary heads."""
        return sum(part.params for part in self.parts)

    @property
    def flops(self) -> int:
        """Multiply-adds of the official code, which projects padded tokens."""
        return sum(part.flops for part in self.parts)

    @property
    def flops_executed(self) -> int:
        """Multiply-adds of this package's code."""
        return sum(part.flops_executed for part in self.parts)

    @property
    def not_counted(self) -> list[str]:
        """Parts that were not counted because they need more than features as input.

        Parts that are used only in training are not listed.
        """
        return [
            part.name
            for part in self.parts
            if part.params and not part.ran and not _TRAINING_ONLY.match(part.name)
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'shape': list(self.shape),
            'params': self.params,
            'flops': self.flops,
            'flops_executed': self.flops_executed,
            'not_counted': self.not_counted,
            'parts': [
                {
                    name: getattr(part, name)
                    for name in ('name', 'params', 'flops', 'flops_executed')
                }
                for part in self.parts
            ],
        }


def complexity(model: nn.Module, shape: Sequence[int]) -> Complexity:
    """Counts a model's parameters, and the multiply-adds of its forward pass on one image.

    The model is on the meta device, where tensors have only shapes: the count takes a second and no
    memory, and is the same for all machines and backends.

    Args:
        model: A detector, segmentor or classifier of OpenMMLab's frameworks, or a backbone, built
            within ``with torch.device('meta')``. It is put into evaluation mode.
        shape: The image's shape, (channels, height, width).

    Raises:
        ArgumentError: The model is not on the meta device, the shape is not that of an image, or a
            framework's model has no ``backbone``.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ArgumentError(f'shape={tuple(shape)} must be (channels, height, width) of an image')
    if any(parameter.device.type != 'meta' for parameter in model.parameters()):
        raise ArgumentError("the model has weights; build it within `with torch.device('meta')`")
    if isinstance(model, BaseModel) and not _has(model, 'backbone'):
        raise ArgumentError(f'{type(model).__name__} has no backbone; give the model within it')
    parts, modules = _split(model)
    # All backends use this operator for attention, so that both counters see every call.
    operator = {torch.ops.swin_backbone.shifted_window_attention: _attention_of_padded_map}
    published = FlopCounterMode(display=False, custom_mapping=operator)
    executed = FlopCounterMode(display=False)
    handles = [
        handle
        for part, of_part in zip(parts, modules, strict=True)
        for module in of_part
        for handle in _watch(module, part, published, executed)
    ]
    model.eval()  # not chained: that of mmdet's own Swin returns None
    networks = [module for module in model.modules() if isinstance(module, WindowMSAV2)]
    for module in networks:
        module.__dict__['relative_position_bias'] = partial(_uncounted_bias, module)
    try:
        with published, executed, torch.device('meta'), torch.no_grad(), use_backend('sdpa'):
            _run(model, torch.empty(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
        for module in networks:
            del module.__dict__['relative_position_bias']
    return Complexity(tuple(shape), [part for part in parts if part.params or part.flops])


def default_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The usual image shape for counting a config's model, (channels, height, width).

    For detectors, 800 × 1280. For segmentors, the height and four times the width of their crop,
    such as 512 × 2048. For classifiers, the crop of their test pipeline, or else 224 × 224.
    """
    model = config['model']
    height, width = DETECTION
    if 'decode_head' in model:
        size = (model.get('data_preprocessor') or {}).get('size') or SEGMENTATION
        height, width = size[0], 4 * size[1]
    elif 'head' in model:
        height, width = _crop(config)
    return (model.get('backbone') or {}).get('in_channels', 3), height, width


def _crop(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the images that a test pipeline produces."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    for transform in reversed(dataset.get('pipeline') or []):
        size = transform.get('crop_size')
        if size is None and transform.get('type') == 'Resize':
            size = transform.get('scale')
        if size is not None:
            return (size, size) if isinstance(size, int) else (size[0], size[-1])
    return CLASSIFICATION


# --- parts ---------------------------------------------------------------------------------------


def _split(model: nn.Module) -> tuple[list[Part], list[list[nn.Module]]]:
    """The parts of a model and the modules of each; the last, 'other', has all other parameters."""
    parts: list[Part] = []
    modules: list[list[nn.Module]] = []
    seen: set[int] = set()
    for name, members in _parts(model):
        own = [p for m in members for p in m.parameters() if id(p) not in seen]
        seen.update(map(id, own))
        parts.append(Part(name, sum(p.numel() for p in dict.fromkeys(own))))
        modules.append(members)
    rest = sum(p.numel() for p in model.parameters() if id(p) not in seen)
    return [*parts, Part('other', rest, ran=True)], [*modules, []]


def _parts(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    if not hasattr(model, 'backbone'):
        yield from _backbone_parts(model, '')
        return
    for name, child in model.named_children():
        if name == 'backbone':
            yield from _backbone_parts(child, 'backbone.')
        elif name == 'roi_head':
            for inner, head in child.named_children():
                yield from _one_by_one(f'roi_head.{inner}', head)
        else:
            yield from _one_by_one(name, child)


def _one_by_one(name: str, module: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    if isinstance(module, nn.ModuleList):
        for i, child in enumerate(module):
            yield f'{name}.{i}', [child]
    else:
        yield name, [module]


def _backbone_parts(backbone: BaseModule, prefix: str) -> Iterator[tuple[str, list[nn.Module]]]:
    """The parts of a Swin Transformer with OpenMMLab's names; other backbones are one part."""
    stages = getattr(backbone, 'stages', None)
    if stages is None or not all(hasattr(stage, 'blocks') for stage in stages):
        yield prefix.rstrip('.') or 'backbone', [backbone]
        return
    yield f'{prefix}patch_embed', [backbone.patch_embed]
    for i, stage in enumerate(stages):
        blocks = stage.blocks
        yield f'{prefix}stages.{i}.attention', [m for b in blocks for m in (b.norm1, b.attn)]
        yield f'{prefix}stages.{i}.mlp', [m for b in blocks for m in (b.norm2, b.ffn)]
        if stage.downsample is not None:
            yield f'{prefix}stages.{i}.merging', [stage.downsample]
    if getattr(backbone, 'global_attention', None) is not None:
        yield f'{prefix}global_attention', [backbone.global_attention]
    norms = [m for name, m in backbone.named_children() if re.fullmatch(r'norm\d*', name)]
    yield f'{prefix}norms', norms


# --- counting ------------------------------------------------------------------------------------


def _attention_of_padded_map(
    qkv_shape: Sequence[int],
    bias_shape: Any,
    padding_shape: Any,
    window_size: int,
    *_: Any,
    **__: Any,
) -> int:
    """FLOPs of attention plus those of projecting the padded tokens in the layers around it."""
    B, H, W, channels = qkv_shape
    padded = padded_tokens(B, H, W, window_size) - B * H * W
    width = channels // 3
    attention = attention_flops(qkv_shape, bias_shape, padding_shape, window_size)
    return attention + 2 * padded * (channels + width) * width


def _uncounted_bias(module: WindowMSAV2, window_size: int | None = None) -> Tensor:
    """V2's position bias without the FLOPs of its network, which published counts leave out."""
    tokens = (window_size or int(module.window_size)) ** 2
    return module.logit_scale.new_empty(module.num_heads, tokens, tokens)


def _watch(
    module: nn.Module, part: Part, published: FlopCounterMode, executed: FlopCounterMode
) -> list[RemovableHandle]:
    """Adds to ``part`` the FLOPs that are counted while the module runs."""

    start = [0, 0]

    def before(*_: Any) -> None:
        start[:] = published.get_total_flops(), executed.get_total_flops()

    def after(*_: Any) -> None:
        part.flops += (published.get_total_flops() - start[0]) // 2
        part.flops_executed += (executed.get_total_flops() - start[1]) // 2
        part.ran = True

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _run(model: BaseModule, image: Tensor) -> None:
    """Runs the parts of a model that inference uses, with the conventional numbers of boxes."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        model(image)
        return
    features = backbone(image)
    if _has(model, 'neck'):
        features = model.neck(features)
    for name in _DENSE_HEADS:
        if _has(model, name):
            _run_dense_heads(model, name, features)
    if _has(model, 'roi_head'):
        _run_roi_head(model, features)


@contextlib.contextmanager
def _counted_if_it_runs(model: nn.Module, name: str, inputs: Any) -> Iterator[None]:
    """Skips a head that needs other inputs than ``inputs``, the features.

    Raises:
        ArgumentError: The head is configured for another number of channels than its inputs have.
    """
    try:
        yield
    except Exception as error:  # such a head may raise anything
        maps = [inputs] if isinstance(inputs, Tensor) else inputs
        channels = [x.shape[1] for x in maps if isinstance(x, Tensor) and x.dim() == 4]
        for part in _names(model, name):
            if mismatch := channel_mismatch(model, part, channels):
                raise ArgumentError(mismatch) from error
        print_log(f'{name} does not run on features alone: {error}', logger='current')


def _run_dense_heads(model: nn.Module, name: str, features: Any) -> None:
    """Runs a head, or the heads of a cascade, each of which refines the previous one's result."""
    results: list[Any] = []
    with _counted_if_it_runs(model, name, features):
        for head in _listed(getattr(model, name)):
            results.append(head(features, *results[-1:]))


def _run_roi_head(model: nn.Module, features: Sequence[Tensor]) -> None:
    """Runs the heads on regions of the extractors' sizes; extracting them is not counted."""
    roi_head: Any = model.roi_head
    if _has(roi_head, 'semantic_head'):
        with _counted_if_it_runs(model, 'roi_head.semantic_head', features):
            roi_head.semantic_head(features)
    if _has(roi_head, 'bbox_head'):
        regions = _regions(roi_head.bbox_roi_extractor, BOXES)
        with _counted_if_it_runs(model, 'roi_head.bbox_head', regions):
            for head in _listed(roi_head.bbox_head):
                head(regions)
    if _has(roi_head, 'mask_head'):
        regions, flow = _regions(roi_head.mask_roi_extractor, MASKS), ()
        with _counted_if_it_runs(model, 'roi_head.mask_head', regions):
            for head in _listed(roi_head.mask_head):
                result = head(regions, *flow)
                # In Hybrid Task Cascade, each mask head passes its features to the next.
                flow = result[1:] if getattr(roi_head, 'mask_info_flow', False) else ()


def _regions(extractor: BaseModule, number: int) -> Tensor:
    extractor = _listed(extractor)[0]
    height, width = extractor.roi_layers[0].output_size
    return torch.empty(number, extractor.out_channels, height, width)


def _has(model: nn.Module, name: str) -> bool:
    return isinstance(getattr(model, name, None), nn.Module)


def _listed(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _names(model: nn.Module, name: str) -> list[str]:
    """The name of a head, or the names of the heads of a cascade."""
    head = model.get_submodule(name)
    return [f'{name}.{i}' for i in range(len(head))] if isinstance(head, nn.ModuleList) else [name]

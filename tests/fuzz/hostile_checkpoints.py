"""Checkpoints in memory: good ones of every layout, then keys, values and wrappers that are not."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from typing import Any
from unittest import mock

import numpy as np
import torch
from harness import Target
from hypothesis import strategies as st
from torch import Tensor, nn

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.weights import (
    convert,
    describe,
    load_pretrained,
    translate_classifier,
    what_would_be_resized,
)
from swin_backbone.weights import load as loading
from swin_backbone.weights.compare import compare
from swin_backbone.weights.formats import FORMATS
from swin_backbone.weights.tensors import check_floats, warn_of_non_finite

SMALL = dict(
    embed_dims=4,
    depths=(1, 2),
    num_heads=(1, 2),
    strides=(4, 2),
    out_indices=(0, 1),
    window_size=2,
    mlp_ratio=1,
    pretrain_img_size=16,
)
MODELS: dict[tuple[int, bool], SwinTransformer] = {
    (version, embedding): kind(**SMALL, use_abs_pos_embed=embedding).eval()
    for version, kind in ((1, SwinTransformer), (2, SwinTransformerV2))
    for embedding in (False, True)
}
LAYOUTS = [layout.name for layout in FORMATS]
CONTAINERS = (
    *('state_dict', 'model', 'module', 'ema', 'model_ema', 'ema_state_dict', 'meta', 'x'),
    *('net', 'teacher', 'a.b'),
)
PREFIXES = (
    *('backbone.', 'module.', 'model.backbone.', 'encoder.', 'swin.', 'a.', '.', ' '),
    '_orig_mod.',
)


class Detector(nn.Module):
    """A model that holds a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


@functools.cache
def good(layout: str, version: int, embedding: bool, classifier: bool) -> dict[str, Tensor]:
    """A checkpoint that fits the model, if need be without what the layout has no place for."""
    weights = {k: v.clone() for k, v in MODELS[version, embedding].state_dict().items()}
    if classifier:
        weights |= {'head.fc.weight': torch.ones(3, 8), 'head.fc.bias': torch.zeros(3)}
    try:
        return convert(weights, layout, source='openmmlab', window_size=2)
    except RuntimeError:
        weights.pop('absolute_pos_embed', None)
        return convert(weights, layout, source='openmmlab', window_size=2)


# --- values ---------------------------------------------------------------------------------------

OBJECTS: list[Any] = [
    *(None, 0, 1.5, True, 'text', b'bytes', [], [1.0], {}, (), {'a': 1}, set(), object, print),
    *(np.ones(3), np.float32(1), np.array(['a']), {3: 4}, [torch.ones(2)], torch.Size([1])),
]
DTYPES = (
    *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool),
    *(torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint16),
)
CHANGES = {
    'scalar': lambda v: v.flatten()[0],
    'empty': lambda v: v[:0],
    'no elements': lambda v: torch.empty(0),
    'flat': lambda v: v.flatten(),
    'one more dimension': lambda v: v[None],
    'last dimension first': lambda v: v.movedim(-1, 0),
    'one row less': lambda v: v[1:],
    'one column less': lambda v: v[..., 1:],
    'twice': lambda v: torch.cat([v, v]),
    'twice as wide': lambda v: torch.cat([v, v], -1),
    'NaN': lambda v: torch.full_like(v, math.nan),
    'infinite': lambda v: torch.full_like(v, math.inf),
    'enormous': lambda v: torch.full_like(v, 1e38),
    'expanded': lambda v: torch.ones(1).expand(v.shape),
    'vast': lambda v: torch.ones(1).expand(2**12, *v.shape),
    'strided': lambda v: v.repeat_interleave(2, 0)[::2],
    'sparse': lambda v: v.to_sparse(),
    'compressed': lambda v: torch.ones(3, 3).to_sparse_csr(),
    'quantised': lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8),
    'nested': lambda v: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    'meta': lambda v: v.to('meta'),
    'parameter': lambda v: nn.Parameter(v),
    'conjugate': lambda v: torch.complex(v, v).conj(),
    'array': lambda v: v.numpy(),
    'list': lambda v: v.tolist(),
    'of 17 tokens': lambda v: torch.ones(1, 17, 4),
    'a map': lambda v: torch.ones(1, 4, 2, 3),
    'an empty map': lambda v: torch.ones(1, 4, 0, 3),
    'a table of a large window': lambda v: torch.ones(999**2, 1),
}


def changed(value: Any, how: str) -> Any:
    """A value changed, or if it cannot be, another."""
    try:
        if how.startswith('torch.'):
            return value.to(getattr(torch, how.removeprefix('torch.')))
        return CHANGES[how](value)
    except Exception:  # what was changed before may be no tensor any more
        return torch.zeros(())


ways = st.sampled_from([*CHANGES, *map(str, DTYPES)])
shapes = st.lists(st.integers(0, 6), max_size=5)

# --- checkpoints ----------------------------------------------------------------------------------

ODD_KEYS: list[Any] = [
    *(3, None, 1.5, (), b'stages.0', '', '.', 'stages', 'stages.', 'stages.0.', 'norm.weight'),
    'stages.99999999999999999999.blocks.0.norm1.weight',
    'stages.0.blocks.987654321.norm1.weight',
    'stages.' + '9' * 5000 + '.blocks.0.attn.w_msa.qkv.weight',
    'layers.' + '9' * 5000 + '.blocks.0.attn.qkv.weight',
    *('layers.³.blocks.0.attn.qkv.weight', 'layers.٣.blocks.٣.attn.qkv.weight'),
    *('norm7.weight', 'norm' + '9' * 5000 + '.weight', 'stages.0.blocks.0.norm3.weight'),
    *('backbone.backbone.stages.0.blocks.0.attn.w_msa.qkv.weight', 'epoch', 'meta'),
    *('stages.0.blocks.0.attn.w_msa.logit_scale', 'layers.0.blocks.0.attn.logit_scale'),
    *('stages.0.blocks.0.attn.w_msa.relative_coords_table', 'global_attention.qkv.weight'),
    *('absolute_pos_embed', 'features.0.0.attn.qkv.bias', 'features.1.0.attn.cpb_mlp.0.weight'),
    *('head.fc.weight', 'head.weight', 'head.fc.bias', 'mask_token', 'layers.0.downsample.x'),
    'stages.0.downsample.reduction.weight',
    'encoder.layers.0.blocks.0.attention.self.query.weight',
    'stages.0.blocks.0.attn.w_msa.relative_position_index',
    'stages.0.blocks.0.attn.w_msa.relative_position_bias_table',
]


class Shown:
    """A checkpoint, printed as how it was made."""

    def __init__(self, content: Any, steps: list[str]) -> None:
        self.content = content
        self.steps = steps

    def __repr__(self) -> str:
        return '; '.join(self.steps)


@st.composite
def checkpoints(draw: st.DrawFn) -> Shown:
    """A good checkpoint, changed in up to four ways."""
    layout = draw(st.sampled_from(LAYOUTS))
    version, embedding = draw(st.sampled_from([1, 2])), draw(st.booleans())
    classifier = draw(st.booleans())
    content: Any = dict(good(layout, version, embedding, classifier))
    steps = [f'{layout} V{version}{" embedding" * embedding}{" classifier" * classifier}']
    for _ in range(draw(st.integers(0, 4))):
        content = _step(draw, content, steps)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        content = _wrapped(draw, content, steps)
    return Shown(content, steps)


def _step(draw: st.DrawFn, content: dict[Any, Any], steps: list[str]) -> dict[Any, Any]:
    kind = draw(st.sampled_from(['value', 'value', 'shape', 'object', 'drop', 'rename', 'more']))
    key = draw(st.sampled_from(list(content))) if content else 'stages'
    old = content.get(key)
    if kind == 'value':
        how = draw(ways)
        steps.append(f'{key}: {how}')
        return {**content, key: changed(old, how)}
    if kind == 'shape':
        shape = draw(shapes)
        steps.append(f'{key}: {shape}')
        return {**content, key: torch.ones(shape)}
    if kind == 'object':
        value = draw(st.sampled_from(OBJECTS))
        steps.append(f'{key}: {value!r}')
        return {**content, key: value}
    if kind == 'drop':
        many = draw(st.sampled_from([str(key), str(key).rpartition('.')[0], str(key)[:12]]))
        steps.append(f'without {many}')
        return {k: v for k, v in content.items() if not str(k).startswith(many)}
    if kind == 'more':
        other = draw(st.sampled_from(ODD_KEYS))
        value = draw(st.sampled_from([old, torch.ones(4), torch.ones(3, 4), None]))
        steps.append(f'and {str(other)[:80]!r}: {_form(value)}')
        return {**content, other: value}
    return _renamed(draw, content, steps, key)


def _form(value: Any) -> str:
    nested = isinstance(value, Tensor) and value.is_nested
    return 'nested' if nested else str(getattr(value, 'shape', value))


def _renamed(draw: st.DrawFn, content: dict, steps: list[str], key: Any) -> dict[Any, Any]:
    how = draw(st.sampled_from(['prefix', 'all', 'some', 'twice', 'digits', 'odd']))
    prefix = draw(st.sampled_from(PREFIXES))
    steps.append(f'{how} renamed with {prefix!r}, {key}')
    if how == 'all':
        return {prefix + str(k): v for k, v in content.items()}
    if how == 'some':
        return {(prefix + str(k) if i % 2 else k): v for i, (k, v) in enumerate(content.items())}
    if how == 'twice':
        return {**{prefix + str(k): v for k, v in content.items()}, **content}
    if how == 'digits':
        digit = draw(st.sampled_from(['7', '-1', '00', '٣', '9' * 5000, '10000', '']))
        return {str(k).replace('0', digit): v for k, v in content.items()}
    new = prefix + str(key) if how == 'prefix' else draw(st.sampled_from(ODD_KEYS))
    return {(new if k == key else k): v for k, v in content.items()}


def _wrapped(draw: st.DrawFn, content: Any, steps: list[str]) -> Any:
    name = draw(st.sampled_from(CONTAINERS))
    how = draw(st.sampled_from(['dict', 'dict', 'ordered', 'meta', 'list', 'cyclic', 'beside']))
    steps.append(f'{how} {name}')
    if how == 'list':
        return [content]
    if how == 'cyclic':
        cyclic: dict[str, Any] = {'weights': content}
        cyclic[name] = cyclic
        return cyclic
    if how == 'ordered':
        return OrderedDict([(name, content)])
    if how == 'meta':
        meta = draw(st.sampled_from([None, {}, {'epoch': 3}, {'iter': 10**30}, {'epoch': 'x'}, []]))
        return {name: content, 'meta': meta, 'epoch': 2.5}
    if how == 'beside' and isinstance(content, dict):
        return {**content, name: draw(st.sampled_from(OBJECTS))}
    return {name: content}


# --- routes ---------------------------------------------------------------------------------------

prefixes = st.sampled_from([None, None, None, '', 'backbone', 'backbone.', 'a', 3, [], '.'])
averages = st.sampled_from([None, None, True, False, 'yes', torch.ones(2)])
GRIDS: list[Any] = [
    *(None, None, (4, 4), [2, 8], (1, 17), (0, 4), (-4, -4), (4,), 4, 'ab', (4, 4, 4), (2.0, 8)),
    *((), (10**9, 1), np.array([4, 4]), {1: 2}),
]
grids = st.sampled_from(GRIDS)
WINDOWS = [None, None, 1, 2, 5, 0, -3, 10**4, 2.5, '3', np.int64(3), torch.ones(2)]
windows = st.sampled_from(WINDOWS)


def _read(checkpoint: Any) -> Any:
    """As a file's content is looked at after it was read."""
    check_floats(checkpoint, 'memory')
    warn_of_non_finite(checkpoint, 'memory')
    return checkpoint


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, Shown, dict[str, Any]]:
    """A route, a checkpoint and options."""
    route = draw(st.sampled_from(['hook', 'hook', 'pretrained', 'pretrained', *ROUTES]))
    options: dict[str, Any] = {'model': draw(st.sampled_from(list(MODELS)))}
    if route in ('pretrained', 'convert', 'describe', 'compare'):
        options['prefix'] = draw(prefixes)
    if route in ('pretrained', 'convert', 'describe'):
        options['ema'] = draw(averages)
    if route in ('pretrained', 'convert'):
        options['source_grid'] = draw(grids)
    if route == 'convert':
        to = st.sampled_from(LAYOUTS)
        options |= dict(window_size=draw(windows), pretrain_grid=draw(grids))
        options |= dict(to=draw(to | to | st.sampled_from(['no', None, 3])))
        options['source'] = draw(st.none() | st.none() | to)
    if route == 'pretrained':
        options['in_channels'] = draw(st.sampled_from([None, None, 'mean', 'repeat', 'no', 3, []]))
        odd = st.sampled_from([None, 'memory', '', 3, [], torch.ones(2), b'memory', np.ones(3)])
        options['checkpoint'] = draw(odd) if draw(st.integers(0, 9)) == 9 else 'memory'
    if route in ('hook', 'detector'):
        options['strict'] = draw(st.booleans())
    return route, draw(checkpoints()), options


def _hook(checkpoint: Any, options: dict[str, Any]) -> None:
    MODELS[options['model']].load_state_dict(checkpoint, strict=options['strict'])


def _detector(checkpoint: Any, options: dict[str, Any]) -> None:
    model = Detector(MODELS[options['model']])
    if isinstance(checkpoint, dict):  # what has no name is torch's to refuse, before the backbone's
        checkpoint = {str(key): value for key, value in checkpoint.items()}
    model.load_state_dict(checkpoint, strict=options['strict'])


def _pretrained(checkpoint: Any, options: dict[str, Any]) -> None:
    init_cfg = {'type': 'Pretrained', **{k: v for k, v in options.items() if k != 'model'}}
    with mock.patch.object(loading, 'read_checkpoint', lambda path: _read(checkpoint)):
        load_pretrained(MODELS[options['model']], init_cfg)


def _convert(checkpoint: Any, options: dict[str, Any]) -> None:
    dropped: list[str] = []
    to = options['to']
    options = {k: v for k, v in options.items() if k not in ('model', 'to')}
    convert(_read(checkpoint), to, dropped=dropped, **options)


def _compare(checkpoint: Any, options: dict[str, Any]) -> None:
    own = dict(MODELS[options['model']].state_dict())
    compare(own, _read(checkpoint))
    compare(_read(checkpoint), own, tolerance=1e-3, prefix=options['prefix'])


def _describe(checkpoint: Any, options: dict[str, Any]) -> None:
    found = describe(_read(checkpoint), prefix=options['prefix'], ema=options['ema'])
    str(found)
    what_would_be_resized(found, MODELS[options['model']])


def _classifier(checkpoint: Any, options: dict[str, Any]) -> None:
    translate_classifier(checkpoint)


ROUTES = {
    'hook': _hook,
    'detector': _detector,
    'pretrained': _pretrained,
    'convert': _convert,
    'compare': _compare,
    'describe': _describe,
    'classifier': _classifier,
}


def run(drawn: tuple[str, Shown, dict[str, Any]]) -> str:
    """Takes the route. What is loaded into a model must leave it as large as it was."""
    route, checkpoint, options = drawn
    ROUTES[route](checkpoint.content, options)
    return 'accepted'


TARGET = Target(inputs(), run)

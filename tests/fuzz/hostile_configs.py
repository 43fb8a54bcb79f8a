"""Backbones' arguments: valid ones, and some of them replaced by what has no business there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from harness import Target
from hypothesis import strategies as st

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)

CLASSES: dict[str, type[SwinTransformer]] = {
    'V1': SwinTransformer,
    'V2': SwinTransformerV2,
    'V1 of mmpretrain': ClassificationSwinTransformer,
    'V2 of mmpretrain': ClassificationSwinTransformerV2,
}
SMALL = dict(
    embed_dims=8, depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), window_size=3
)
# A model that has no more than this is built for real and run.
FEW_BYTES = 2**22

# Values that mean something for the argument; many of these must be accepted.
FITTING: dict[str, list[Any]] = {
    'pretrain_img_size': [32, (32,), (32, 48), [32, 48], np.int64(32), 0, 3],
    'in_channels': [1, 3, 4, np.int32(2), torch.tensor(2)],
    'embed_dims': [4, 8, 12, np.int64(8), 96, 2**20, 2**40, 2**70],
    'patch_size': [4, (4, 4), [4, 4], (4, 2), 2, np.int64(4), 1, 10**6],
    'window_size': [1, 2, 7, 12, np.int64(3), 97, 10**5, 2**63, (3, 2), [2, 3]],
    'mlp_ratio': [4, 2.5, 0.5, np.float32(2), 0, 0.01, 1e9, 1e300, torch.tensor(2.0)],
    'depths': [(1, 1), [2, 1], (0, 1), (1, 0), (1,), (1, 1, 1), (10**9, 1), (np.int64(1), 1), ()],
    'num_heads': [(1, 1), [2, 4], (1,), (0, 1), (-1, 1), (3, 3), (np.int64(1), 2), (2.0, 2)],
    'strides': [(4, 1), [4, 2], (4, 3), (4, 0), (4, -1), ((4, 4), 2), ((4, 2), 2), (4, (2, 2)), 4],
    'out_indices': [(0,), [1], (1, 0), range(2), (-1,), (2,), (np.int64(1),), (0.0,), (0, 0), ()],
    'qkv_bias': [False, 0, 1, np.True_],
    'qk_scale': [0.5, 1, 0, 0.0, -1.0, np.float64(0.1), 1e30, torch.tensor(0.5)],
    'patch_norm': [False, True],
    'drop_rate': [0, 1, 0.5, np.float32(0.1), 1.0001, torch.tensor(0.1)],
    'attn_drop_rate': [0, 1, 0.5, np.float64(0.1), -0.1],
    'drop_path_rate': [0, 1, 0.3, np.float32(0.1), 2, torch.tensor(0.1)],
    'use_abs_pos_embed': [True],
    'act_cfg': [dict(type='ReLU'), dict(type='GELU', approximate='tanh'), dict(type='Swish')],
    'norm_cfg': [
        dict(type='LN', eps=1e-6),
        dict(type='LN', eps='small'),
        dict(type='LN', eps=math.nan),
        dict(type='LN', requires_grad=False),
        dict(type='LN', elementwise_affine=False),
        dict(type='LN', bias=False),
        dict(type='BN'),
        dict(type='BN1d'),
        dict(type='GN', num_groups=2),
        dict(type='GN', num_groups=7),
        dict(type='GN'),
        dict(type=torch.nn.LayerNorm),
        dict(type=torch.nn.Linear),
        dict(type='LN', epsilon=1e-6),
    ],
    'with_cp': [True, 'block', 'attention', 'mlp', 'stage', 1, np.True_, 'blocks'],
    'pretrained': ['file.pth', ''],
    'convert_weights': [True],
    'frozen_stages': [-1, 0, 1, 2, 3, -2, np.int64(1), 1.0],
    'init_cfg': [dict(type='Pretrained', checkpoint='file.pth'), [], {}, 'file.pth'],
    'arch': [
        *('tiny', 'T', 'tinny', 'huge', ''),
        dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)),
        dict(embed_dim=8, depths=[1], num_heads=[1]),
        dict(embed_dims=8),
        {1: 2},
    ],
    'pad_small_map': [True, False],
    'global_attention': [True],
    'pretrained_window_sizes': [(2, 2), (0, 5), [8, 8, 8], (1, 1), (0,), 8, (10**9, 0), (2**70, 2)],
    'extra_norm_every_n_blocks': [1, 2, 0, -1, np.int64(2), 10**30],
    # mmpretrain's
    'norm_eval': [True],
    'out_after_downsample': [True],
    'interpolate_mode': ['bicubic', 'nearest'],
    'stage_cfgs': [
        dict(block_cfgs=dict(ffn_ratio=2)),
        dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False))),
        [dict(window_size=2), dict(window_size=2)],
        [dict(window_size=2), dict(window_size=3)],
        dict(block_cfgs=dict(window_size=7)),
        dict(block_cfgs=3),
        dict(downsample_cfg=dict(stride=2)),
        dict(block_cfgs=[dict(), None]),
    ],
    'patch_cfg': [dict(conv_type='Conv2d'), dict(bias=False), dict(padding=1)],
    # the official release's, and mmpretrain's
    'embed_dim': [8, 16],
    'in_chans': [3, 1],
    'img_size': [32, 64],
    'ape': [True],
    'use_checkpoint': [True],
}
_OF_V2 = ('pretrained_window_sizes', 'extra_norm_every_n_blocks')
_OF_MMPRETRAIN = (
    'norm_eval',
    'out_after_downsample',
    'interpolate_mode',
    'stage_cfgs',
    'patch_cfg',
)
MISSPELT = ('embed_dim_', 'windowsize', 'depth', 'heads', 'type', '', 'ünïcode', 'x' * 200)

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**5, 2**31, 2**63, -(2**63), 10**400),
    *(0.0, -0.0, 1.5, -1e-300, 1e300, math.nan, math.inf, -math.inf, 1j, 4.0),
    *('', '4', 'tiny', 'LN', 'nan', '\0', '\ud800', 'ａ', b'4', bytearray(2)),
    *((), [], {}, set(), frozenset({1}), range(0), range(3), slice(1, 2), Ellipsis, NotImplemented),
    *([None], [[]], [[1, 2], [3]], ((1,),), [1, 'a'], {'type': None}, {'type': 3}, {'type': 'No'}),
    *({'type': []}, {1: 1}, {None: None}, [1] * 50, [float('nan')], 'x' * 1000),
    *(int, print, type, object, torch.nn.Identity, torch.nn.LayerNorm),
    *(np.int8(-3), np.uint8(3), np.float16(0.5), np.float64('nan'), np.str_('4'), np.bool_(True)),
    *(np.array(3), np.array([1, 2]), np.array([]), np.array([[1.0]]), np.array(['a'])),
    *(torch.tensor(3), torch.tensor(0.5), torch.tensor([1, 2]), torch.tensor([]), torch.ones(1, 1)),
    *(torch.tensor(True), torch.tensor(math.nan), torch.tensor(1j), torch.ones(2, device='meta')),
    *(torch.tensor(3, device='meta'), torch.eye(2).to_sparse(), torch.Size([1, 2]), torch.float32),
]

odd_values = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.integers(-3, 12) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(['type', 'eps', 'a', '']), inner, max_size=2)
    ),
    max_leaves=5,
)


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """The name of a class in ``CLASSES``, and keyword arguments."""
    name = draw(st.sampled_from(list(CLASSES)))
    arguments: dict[str, Any] = dict(SMALL)
    for argument in draw(st.lists(st.sampled_from(_arguments(name)), max_size=3)):
        if argument == 'arch':
            arguments = {k: arguments[k] for k in arguments if k in ('strides', 'out_indices')}
        fitting = st.sampled_from(FITTING[argument])
        arguments[argument] = draw(fitting | fitting | odd_values)
    if draw(st.integers(0, 7)) == 7:  # a list that is wrong in one place
        argument = draw(st.sampled_from(['depths', 'num_heads', 'strides', 'out_indices']))
        values = list(SMALL[argument])  # type: ignore[call-overload]
        values[draw(st.integers(0, 1))] = draw(odd_values)
        arguments[argument] = values
    if draw(st.integers(0, 19)) == 19:
        arguments[draw(st.sampled_from(MISSPELT) | st.text(max_size=6))] = draw(odd_values)
    if draw(st.integers(0, 19)) == 19:
        arguments.pop(draw(st.sampled_from(list(SMALL))), None)
    return name, arguments


def _arguments(name: str) -> list[str]:
    """What a class takes; another's are misspelt ones."""
    foreign = [] if 'V2' in name else list(_OF_V2)
    foreign += ['qk_scale'] if 'V2' in name else []
    foreign += [] if 'mmpretrain' in name else list(_OF_MMPRETRAIN)
    return [argument for argument in FITTING if argument not in foreign]


def run(config: tuple[str, dict[str, Any]]) -> str:
    """Builds it without memory; a small one then for real, and runs it."""
    name, arguments = config
    backbone = CLASSES[name]
    with torch.device('meta'):
        model = backbone(**arguments)
    if not _is_small(model):
        return 'accepted, not run'
    model = backbone(**arguments).eval()
    height, width = (3 * side + 1 for side in model.patch_embed.patch_size)
    image = torch.randn(1, model.patch_embed.in_channels, height, width)
    with torch.no_grad():
        outputs = model(image)
    assert len(outputs) == len(model.out_indices), 'outputs'
    for i, output in zip(sorted(model.out_indices), outputs, strict=True):
        assert output.shape[:2] == (1, model.num_features[i]), f'shape {tuple(output.shape)}'
        assert torch.isfinite(output).all(), 'not finite'
    return 'accepted'


def _is_small(model: SwinTransformer) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    sides = (*model.patch_embed.patch_size, *_windows(model))
    count = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return count <= FEW_BYTES and max(sides) <= 24


def _windows(model: SwinTransformer) -> list[int]:
    return [block.attn.window_size for stage in model.stages for block in stage.blocks] or [1]


TARGET = Target(configs(), run)

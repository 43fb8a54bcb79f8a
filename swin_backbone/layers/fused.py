"""Whether a module may run fused, or its submodules must be called (hooks, replacements)."""

from __future__ import annotations

import functools
from typing import NamedTuple, cast

import torch
from mmcv.cnn.bricks import DropPath, drop
from torch import Tensor, nn

from ..ops import block as ops_block
from ..ops import merging as ops_merging
from ..ops import post_norm as ops_post_norm
from ..ops import trial as ops_trial
from ..ops.dtypes import autocast_dtype
from ..ops.recording import Definitions, is_hooked, why_unfused
from .attention import WINDOWS, ShiftWindowMSA, WindowMSA
from .embedding import AdaptivePadding
from .mlp import FFN, PostNormFFN

# Modules of an ordinary block by name; a block with others runs unfused.
USUAL = {
    'norm1': nn.LayerNorm,
    'attn': ShiftWindowMSA,
    'attn.w_msa': WindowMSA,
    'attn.w_msa.qkv': nn.Linear,
    'attn.w_msa.attn_drop': nn.Dropout,
    'attn.w_msa.proj': nn.Linear,
    'attn.w_msa.proj_drop': nn.Dropout,
    'attn.w_msa.softmax': nn.Softmax,
    'attn.drop': DropPath,
    'norm2': nn.LayerNorm,
    'ffn': FFN,
    'ffn.layers': nn.Sequential,
    'ffn.layers.0': nn.Sequential,
    'ffn.layers.0.0': nn.Linear,
    'ffn.layers.0.1': nn.GELU,
    'ffn.layers.0.2': nn.Dropout,
    'ffn.layers.1': nn.Linear,
    'ffn.layers.2': nn.Dropout,
    'ffn.dropout_layer': DropPath,
    'ffn.gamma2': nn.Identity,
}
MAY_LACK_BIAS = ('qkv', 'reduction')
# Methods and functions, besides PyTorch's, that a fused block does not call.
OWN = Definitions(
    *(
        (kind, name)
        for kind in (DropPath, FFN, PostNormFFN, ShiftWindowMSA, WindowMSA)
        for name in ('forward', '__call__', '_call_impl')
    ),
    *((ShiftWindowMSA, name) for name in WINDOWS),
    (drop, 'drop_path'),
)


class _Usual(NamedTuple):
    """A module's type and submodules."""

    type: type
    modules: dict[str, _Usual]


def _tree(names: dict[str, type]) -> dict[str, _Usual]:
    """Nests modules by name: the walk over them at every call must be fast."""
    tree: dict[str, _Usual] = {}
    for name, kind in names.items():
        *path, last = name.split('.')
        modules = functools.reduce(lambda level, step: level[step].modules, path, tree)
        modules[last] = _Usual(kind, {})
    return tree


USUAL_BLOCK = _tree(USUAL)
# A V2 block calls its attention module; of that, only the drop path is fused.
USUAL_PATHS = _tree(
    {name: kind for name, kind in USUAL.items() if name.split('.')[0] in ('norm1', 'norm2', 'ffn')}
    | {'ffn': PostNormFFN}
) | {'attn.drop': _Usual(DropPath, {})}
USUAL_MERGING = _tree(
    {
        'adap_padding': AdaptivePadding,
        'sampler': nn.Unfold,
        'norm': nn.LayerNorm,
        'reduction': nn.Linear,
    }
)


def why_block_unfused(block: nn.Module, x: Tensor, hw_shape: tuple[int, int]) -> str | None:
    """Why ``block`` runs unfused on tokens ``x`` of a map (H, W); None if it can run fused."""
    if (reason := _why_unusual(block._modules, USUAL_BLOCK, x)) is not None:
        return reason
    attn, ffn = cast(ShiftWindowMSA, block.attn), cast(FFN, block.ffn)
    if not ffn.add_identity:
        return 'ffn does not add its input'
    if not isinstance(attn.w_msa.scale, int | float):
        return 'attn.w_msa.scale is not a number'
    if attn.__dict__.keys() & WINDOWS:
        return 'attn makes its windows by another method'
    window_size, _ = attn.windows(hw_shape)
    return ops_block.why_not(x, attn.w_msa.num_heads, window_size, ffn.feedforward_channels)


def why_merging_unfused(merging: nn.Module, x: Tensor) -> str | None:
    """As :func:`why_block_unfused`, for a patch merging."""
    if (reason := ops_trial.why_other_device(x)) is not None:
        return reason
    if not merging.has_pairs or merging.use_post_norm:
        return 'it is not what section 3.1 describes'
    if (reason := _why_unusual(merging._modules, USUAL_MERGING, x)) is not None:
        return reason
    if cast(nn.Linear, merging.reduction).bias is not None:
        return 'reduction has a bias'
    return ops_merging.why_not(x)


def why_paths_unfused(block: nn.Module, x: Tensor) -> str | None:
    """As :func:`why_block_unfused`, for a V2 block's two paths without the attention."""
    if (reason := ops_trial.why_other_device(x)) is not None:
        return reason
    modules = {name: block._modules.get(name) for name in ('norm1', 'norm2', 'ffn')}
    modules['attn.drop'] = cast(nn.Module, block.attn)._modules.get('drop')
    if (reason := _why_unusual(modules, USUAL_PATHS, x)) is not None:
        return reason
    return ops_post_norm.why_not(x, cast(FFN, block.ffn).feedforward_channels)


def _why_unusual(
    modules: dict[str, nn.Module | None], usual: dict[str, _Usual], x: Tensor
) -> str | None:
    """Why these modules, by name, must be called."""
    if (reason := why_unfused()) is not None:
        return reason
    if (name := OWN.replaced()) is not None:
        return f'{name} is replaced'
    return _why_unusual_within(modules, usual, '', _dtypes(x), x.device)


def _why_unusual_within(
    found: dict[str, nn.Module | None],
    usual: dict[str, _Usual],
    path: str,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
) -> str | None:
    if found.keys() != usual.keys():
        return 'its modules are not those of an ordinary block'
    for name, inner in found.items():
        kind, modules = usual[name]
        if inner is None or type(inner) is not kind:
            return f'{path}{name} is {type(inner).__name__}'
        if is_hooked(inner):
            return f'{path}{name} has a hook or a forward of its own'
        if kind is nn.Dropout and inner.p and inner.training:
            return f'{path}{name} drops elements'
        if kind is nn.Softmax and inner.dim != -1:
            return f'{path}{name} is of another dimension'
        if kind is nn.GELU and inner.approximate != 'none':
            return f'{path}{name} is approximated'
        for what, tensor in (*inner._parameters.items(), *inner._buffers.items()):
            if tensor is None:
                if what == 'bias' and name in MAY_LACK_BIAS:
                    continue
                return f'{path}{name} has no {what}'
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.device != device:
                return f'{path}{name} has a {what} that is a tensor subclass or on another device'
            if tensor.is_floating_point() and tensor.dtype not in dtypes:
                return f'{path}{name} has a {what} of another dtype, {tensor.dtype}'
        if modules:
            reason = _why_unusual_within(inner._modules, modules, f'{path}{name}.', dtypes, device)
            if reason is not None:
                return reason
    return None


def _dtypes(x: Tensor) -> tuple[torch.dtype, ...]:
    """Allowed dtypes of a block's tensors: that of ``x``; under autocast, float32 and its dtype."""
    dtype = autocast_dtype(x)
    return (x.dtype,) if dtype is None else (torch.float32, dtype)

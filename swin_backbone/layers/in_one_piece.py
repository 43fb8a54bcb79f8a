"""Whether a block may run in one piece, or somebody counts on its modules being called."""

from __future__ import annotations

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..ops.backends import requested_backend
from ..ops.block import can_run

# What a block consists of, by the names of its modules, where the configuration is the usual one.
USUAL = {
    'norm1': nn.LayerNorm,
    'attn.w_msa.qkv': nn.Linear,
    'attn.w_msa.attn_drop': nn.Dropout,
    'attn.w_msa.proj': nn.Linear,
    'attn.w_msa.proj_drop': nn.Dropout,
    'attn.drop': DropPath,
    'norm2': nn.LayerNorm,
    'ffn.layers': nn.Sequential,
    'ffn.layers.0': nn.Sequential,
    'ffn.layers.0.0': nn.Linear,
    'ffn.layers.0.1': nn.GELU,
    'ffn.layers.0.2': nn.Dropout,
    'ffn.layers.1': nn.Linear,
    'ffn.layers.2': nn.Dropout,
    'ffn.dropout_layer': DropPath,
}
BIASED = ('norm1', 'attn.w_msa.proj', 'norm2', 'ffn.layers.0.0', 'ffn.layers.1')


def why_not_in_one_piece(block: nn.Module, x: Tensor) -> str | None:
    """Why ``block`` must be run module by module on tokens ``x``; None where it need not."""
    if requested_backend() not in (None, 'cpu'):
        return f'backend {requested_backend()!r} was asked for'
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return 'a compiler or tracer looks on'
    if torch._C._are_functorch_transforms_active() or _get_current_dispatch_mode() is not None:
        return 'a transformation or counter looks on'
    if (why_not := can_run(x)) is not None:
        return why_not
    if torch.is_autocast_enabled('cpu'):
        return 'autocast is on'
    return _why_unusual(block, x)


def _why_unusual(block: nn.Module, x: Tensor) -> str | None:
    if torch_module._has_any_global_hook():
        return 'there are hooks on all modules'
    modules = dict(block.named_modules())
    for name, module in modules.items():
        if name and _hooked(module):
            return f'{name} has a hook or a forward of its own'
        if type(module) is nn.Dropout and module.p and module.training:
            return f'{name} drops elements'
        if name in USUAL and type(module) is not USUAL[name]:
            return f'{name} is {type(module).__name__}'
    if modules.keys() - {'', 'attn', 'attn.w_msa', 'ffn'} != USUAL.keys():
        return 'its modules are not the usual ones'
    if modules['ffn.layers.0.1'].approximate != 'none':
        return 'GELU is approximated'
    for tensor in (*block.parameters(), *block.buffers()):
        if tensor.is_floating_point() and not (_plain(tensor) and tensor.dtype == x.dtype):
            return 'a parameter is of another dtype, or no plain tensor'
    if any(modules[name].bias is None for name in BIASED):
        return 'a layer has no bias'
    return None


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in vars(module)
    )


def _plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == 'cpu'

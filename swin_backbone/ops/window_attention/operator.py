"""The operator ``swin_backbone::shifted_window_attention`` that compilers and exporters see.

It is opaque: shapes come from a fake kernel, gradients from a second operator that computes the
scores again, so that only the inputs are kept for it; FLOPs from formulas.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..sizes import padded_tokens


@torch.library.custom_op('swin_backbone::shifted_window_attention', mutates_args=())
def attention_op(
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
    backend: str,
) -> Tensor:
    implementation = load(backend)
    args = (qkv, bias, padding, window_size, shift_size, scale)
    # The caller has seen to dtypes; autocast must not change them again in here.
    with torch.autocast(qkv.device.type, enabled=False):
        if hasattr(implementation, 'forward'):
            return implementation.forward(*args)
        return _composed(implementation, *args).contiguous()


@torch.library.custom_op('swin_backbone::shifted_window_attention_backward', mutates_args=())
def attention_backward_op(
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    implementation = load(backend)
    args = (qkv, bias, padding, window_size, shift_size, scale)
    with torch.autocast(qkv.device.type, enabled=False):
        if hasattr(implementation, 'backward'):
            d_qkv, d_bias, d_padding = implementation.backward(grad, *args)
        else:
            d_qkv, d_bias, d_padding = _composed_backward(implementation, grad, *args)
    return d_qkv, d_bias, qkv.new_empty(0) if d_padding is None else d_padding


def load(backend: str) -> ModuleType:
    """The module of a backend, imported when it is first used: triton need not be installed."""
    return importlib.import_module(f'{__package__}.{backend}')


def _composed(
    implementation: ModuleType,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    return implementation.shifted_window_attention(
        qkv,
        bias,
        window_size=window_size,
        shift_size=shift_size,
        scale=scale,
        padding=padding,
        dropout_p=0.0,
    )


def _composed_backward(
    implementation: ModuleType,
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    *args: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of a backend that is made of differentiable operators."""
    qkv, bias = qkv.detach().requires_grad_(), bias.detach().requires_grad_()
    inputs = [qkv, bias]
    if padding is not None:
        padding = padding.detach().requires_grad_()
        inputs.append(padding)
    with _autograd_within_an_operator():
        out = _composed(implementation, qkv, bias, padding, *args)
        # A map that fills its windows has no padded token, and so an unused `padding`.
        found = torch.autograd.grad(out, inputs, grad, materialize_grads=True)
    gradients = [gradient.contiguous() for gradient in found]
    return gradients[0], gradients[1], gradients[2] if padding is not None else None


@contextlib.contextmanager
def _autograd_within_an_operator() -> Iterator[None]:
    """Turns on what the dispatcher has turned off for the kernels of an operator."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.AutogradOther):
        excluded = excluded.remove(key)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


@attention_op.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@attention_backward_op.register_fake
def _(
    grad: Tensor, qkv: Tensor, bias: Tensor, padding: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d_padding = qkv.new_empty(0) if padding is None else padding.new_empty(padding.shape)
    return qkv.new_empty(qkv.shape), bias.new_empty(bias.shape), d_padding


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    qkv, bias, padding, *ctx.options = inputs
    ctx.save_for_backward(qkv, bias, padding)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    qkv, bias, padding = ctx.saved_tensors
    d_qkv, d_bias, d_padding = attention_backward_op(grad, qkv, bias, padding, *ctx.options)
    return d_qkv, d_bias, None if padding is None else d_padding, None, None, None, None


attention_op.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.swin_backbone.shifted_window_attention)
def attention_flops(
    qkv_shape: Sequence[int],
    bias_shape: Any,
    padding_shape: Any,
    window_size: int,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Two products, queries by keys and weights by values, over the padded map."""
    B, H, W, channels = qkv_shape
    tokens = padded_tokens(B, H, W, window_size)
    return 2 * (2 * tokens * window_size**2 * channels // 3)


@register_flop_formula(torch.ops.swin_backbone.shifted_window_attention_backward)
def _attention_backward_flops(grad_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Five products to the forward pass's two, as PyTorch counts its own fused attention."""
    return attention_flops(*args) * 5 // 2

"""The custom operator ``swin_backbone::shifted_window_attention``.

It is opaque to compilers and exporters. A fake kernel gives the shapes, formulas give the FLOPs,
and a second operator gives the gradients. That operator recomputes the scores, so that only the
inputs are saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..backends import Backend
from ..sizes import padded_tokens
from . import cpu, indexed, reference, sdpa, triton

_MODULES = reference, indexed, sdpa, triton, cpu
IMPLEMENTATIONS: dict[str, Backend] = {module.BACKEND.name: module.BACKEND for module in _MODULES}


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
    implementation = IMPLEMENTATIONS[backend]
    args = (qkv, bias, padding, window_size, shift_size, scale)
    # The caller has applied autocast already.
    with torch.autocast(qkv.device.type, enabled=False):
        if implementation.forward is not None:
            return implementation.forward(*args)
        return _attend(implementation, *args).contiguous()


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
    implementation = IMPLEMENTATIONS[backend]
    args = (qkv, bias, padding, window_size, shift_size, scale)
    with torch.autocast(qkv.device.type, enabled=False):
        if implementation.backward is not None:
            d_qkv, d_bias, d_padding = implementation.backward(grad, *args)
        else:
            d_qkv, d_bias, d_padding = _attend_backward(implementation, grad, *args)
    return d_qkv, d_bias, qkv.new_empty(0) if d_padding is None else d_padding


def _attend(
    implementation: Backend,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    window_size: int,
    shift_size: int,
    scale: float,
) -> Tensor:
    assert implementation.attend is not None
    return implementation.attend(
        qkv, bias, window_size=window_size, shift_size=shift_size, scale=scale, padding=padding
    )


def _attend_backward(
    implementation: Backend,
    grad: Tensor,
    qkv: Tensor,
    bias: Tensor,
    padding: Tensor | None,
    *args: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of a backend that autograd differentiates."""
    qkv, bias = qkv.detach().requires_grad_(), bias.detach().requires_grad_()
    inputs = [qkv, bias]
    if padding is not None:
        padding = padding.detach().requires_grad_()
        inputs.append(padding)
    with _autograd_within_an_operator():
        out = _attend(implementation, qkv, bias, padding, *args)
        # If the map fills its windows, no token is padded and `padding` is unused.
        found = torch.autograd.grad(out, inputs, grad, materialize_grads=True)
    gradients = [gradient.contiguous() for gradient in found]
    return gradients[0], gradients[1], gradients[2] if padding is not None else None


@contextlib.contextmanager
def _autograd_within_an_operator() -> Iterator[None]:
    """Enables autograd, which the dispatcher disables within the kernels of a custom operator."""
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
    """FLOPs of two matrix products over the padded map: scores, and weights by values."""
    B, H, W, channels = qkv_shape
    tokens = padded_tokens(B, H, W, window_size)
    return 2 * (2 * tokens * window_size**2 * channels // 3)


@register_flop_formula(torch.ops.swin_backbone.shifted_window_attention_backward)
def _attention_backward_flops(grad_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Five matrix products instead of two, as PyTorch counts its own fused attention."""
    return attention_flops(*args) * 5 // 2

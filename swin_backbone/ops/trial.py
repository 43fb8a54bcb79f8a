"""Decides whether Triton kernels are chosen, by a trial of them on a small problem.

Compilers produce different code for each GPU, and a wrong result would go unnoticed. So before
kernels are chosen automatically, their output and gradients are compared with ``reference.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .backends import requested_backend
from .dtypes import autocast_dtype
from .recording import capturing

# Allowed error relative to the largest element: a few times the rounding error.
TOLERANCE = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class Setting(NamedTuple):
    """The device and the dtypes of a call; a trial uses the same.

    Attributes:
        device: The device, with its index.
        dtype: The dtype of the map.
        autocast: Autocast's dtype; None if it is off.
    """

    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None = None

    @classmethod
    def of(cls, x: Tensor) -> Setting:
        """The setting of a call with the map ``x``."""
        return cls(x.device, x.dtype, autocast_dtype(x))

    @property
    def products(self) -> torch.dtype:
        """The dtype of matrix products."""
        return self.autocast or self.dtype

    @property
    def parameters(self) -> torch.dtype:
        """The dtype of weights and biases, which autocast leaves in float32."""
        return self.dtype if self.autocast is None else torch.float32


class Draw:
    """Draws inputs of a trial from a generator of its own, so that the global one is unchanged."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._generator = torch.Generator().manual_seed(0)

    def map(self, *shape: int) -> Tensor:
        """Activations, in the dtype of the map."""
        return self.like(shape, self.setting.dtype).requires_grad_()

    def parameter(self, *shape: int, inputs: int = 1) -> Tensor:
        """A parameter, of standard deviation ``inputs ** -0.5``."""
        return self.like(shape, self.setting.parameters, inputs**-0.5).requires_grad_()

    def linear(self, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear layer."""
        return self.parameter(outputs, inputs, inputs=inputs), self.parameter(outputs)

    def like(self, shape: Sequence[int], dtype: torch.dtype, size: float = 1.0) -> Tensor:
        drawn = size * torch.randn(*shape, generator=self._generator)
        return drawn.to(self.setting.device, dtype)


class Comparison(NamedTuple):
    """A small problem, computed twice.

    Attributes:
        tensors: The inputs, all of which require gradients.
        ours: Computes the result from the inputs with the kernels.
        exact: Computes it with the reference.
    """

    tensors: Sequence[Tensor]
    ours: Callable[..., Tensor]
    exact: Callable[..., Tensor]


class Trial:
    """Compares the kernels of one op with its reference, once for each setting and sizes.

    Args:
        comparison: ``comparison(draw, *sizes)`` returns the small problem.
        instead: What the warning says happens if the kernels fail.
    """

    def __init__(self, comparison: Callable[..., Comparison], instead: str) -> None:
        self._comparison, self._instead = comparison, instead
        self._faults: dict[tuple[Setting, tuple[int, ...]], str | None] = {}

    def fault(self, setting: Setting, *sizes: int) -> str | None:
        """Why the kernels must not be used; None if they are correct.

        Warns once if they are not. A lack of memory is not remembered, because it may be transient.
        """
        device = setting.device
        if device.type == 'cuda' and device.index is None:
            setting = setting._replace(device=torch.device('cuda', torch.cuda.current_device()))
        key = setting, sizes
        if key in self._faults:
            return self._faults[key]
        reason = None
        try:
            error = self.error(setting, *sizes)
            if not error <= TOLERANCE[setting.products]:
                wrong = f'by {error:.2g} of the largest value'
                reason = f'its kernels are wrong on this device, {wrong}'
        except torch.OutOfMemoryError as failure:
            return f'memory is too short to try its kernels: {failure}'
        except Exception as failure:  # a compiler or driver may raise anything
            reason = f'its kernels fail on this device: {type(failure).__name__}: {failure}'
        if reason is not None:
            warnings.warn(f'swin_backbone {self._instead}: {reason}', stacklevel=2)
        self._faults[key] = reason
        return reason

    def error(self, setting: Setting, *sizes: int) -> float:
        """The largest error of output and gradients, relative to the largest element of each."""
        device, dtype = setting.device.type, setting.autocast
        with (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            draw = Draw(setting)
            tensors, ours, exact = self._comparison(draw, *sizes)
            with torch.autocast(device, dtype, enabled=dtype is not None):
                out = ours(*tensors)
            grad = draw.like(out.shape, out.dtype)
            results = _with_gradients(out, tensors, grad)
            wide = [t.detach().double().requires_grad_() for t in tensors]
            return _largest_error(results, _with_gradients(exact(*wide), wide, grad.double()))

    def forget(self) -> None:
        """Forgets all results."""
        self._faults.clear()


def why_not_kernels(
    x: Tensor, can_run: Callable[[], str | None], trial: Trial, *sizes: int
) -> str | None:
    """Why kernels that replace modules cannot run on a tensor; None if they can.

    Args:
        x: The tensor.
        can_run: Returns why the kernels do not support the call, or None.
        trial: The trial of the kernels. It is skipped if the ``triton`` backend is requested.
        *sizes: The sizes of the trial.
    """
    if (reason := why_other_device(x) or can_run()) is not None or requested_backend():
        return reason
    if capturing():  # a CUDA graph must not record the trial
        return None
    return trial.fault(Setting.of(x), *sizes)


def why_other_device(x: Tensor) -> str | None:
    """Why kernels are not considered for ``x``: its device, or a request for another backend."""
    requested = requested_backend()
    if requested not in (None, 'triton'):
        return f'backend {requested!r} was asked for'
    if requested is None and not x.is_cuda:
        return f'for GPUs, got {x.device.type}'
    return None


def _with_gradients(out: Tensor, inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    # A window of one token needs no padding, so that its gradient is unused.
    return out, *torch.autograd.grad(out, inputs, grad, materialize_grads=True)


def _largest_error(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """The largest error of any element, relative to the largest element of its tensor or to 1."""
    errors = [
        (mine.double() - other).abs().max() / other.abs().max().clamp(min=1)
        for mine, other in zip(ours, exact, strict=True)
    ]
    return torch.stack(errors).max().item()

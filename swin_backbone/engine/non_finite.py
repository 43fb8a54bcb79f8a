"""Stops training at the first NaN or infinity and names the layer that produced it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .data_stream import MODEL, seed_generators


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the layer that produced it."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Checks the gradients before each optimizer step, and the loss after it.

    If a value is not finite, the weights are not updated; the batch is run again with hooks on
    every module. A step that fp16's loss scaler skips is no error, but ``patience`` non-finite
    losses in a row are.

    Args:
        patience: Non-finite losses in a row that are an error; for runs with a loss scaler only.
    """

    priority = 'VERY_LOW'

    def __init__(self, patience: int = 10) -> None:
        self.patience, self.bad_losses = patience, 0
        self.handles: list = []

    def before_train(self, runner: Any) -> None:
        """Attaches the check to the optimizers."""
        wrappers = runner.optim_wrapper
        wrappers = wrappers.values() if isinstance(wrappers, OptimWrapperDict) else [wrappers]
        for wrapper in wrappers:
            if hasattr(wrapper.optimizer, 'register_step_pre_hook'):  # not DeepSpeed's
                check = _gradient_check(self, runner)
                self.handles.append(wrapper.optimizer.register_step_pre_hook(check))

    def after_train(self, runner: Any) -> None:
        """Detaches it."""
        while self.handles:
            self.handles.pop().remove()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps the batch, to run it again."""
        self.batch = data_batch

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Checks the loss.

        Raises:
            NonFiniteError: It is not finite.
        """
        loss: Any = (outputs or {}).get('loss')
        bad = loss is not None and not torch.as_tensor(loss).isfinite().all()
        if not _anywhere(bad, runner.model):
            self.bad_losses = 0
            return
        self.bad_losses += 1
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled() and self.bad_losses < self.patience:
            print_log(
                'The loss is not finite; the loss scaler skipped the step',
                'current',
                logging.WARNING,
            )
            return
        raise NonFiniteError(report(runner, data_batch, f'the loss is {float(loss)}'))


def _anywhere(bad: bool, model: nn.Module) -> bool:
    """Whether it is bad in this process or, under FSDP, in any process.

    Under FSDP, all processes must take part in the second run of the batch.
    """
    if not isinstance(model, FullyShardedDataParallel):
        return bool(bad)
    flag = torch.tensor(float(bad), device=model.compute_device)
    all_reduce(flag, op='max')
    return bool(flag)


def _gradient_check(hook: NonFiniteHook, runner: Any) -> Callable[..., None]:
    def check(optimizer: torch.optim.Optimizer, *ignored: Any) -> None:
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is not None and found_inf.item():  # a fused optimizer skips the step itself
            return
        groups = optimizer.param_groups
        grads = [p.grad for group in groups for p in group['params'] if p.grad is not None]
        if _anywhere(not finite(grads), runner.model):
            raise NonFiniteError(report(runner, hook.batch, 'a gradient is not finite'))

    return check


def finite(tensors: list[Tensor]) -> bool:
    """Whether all elements of all tensors are finite."""
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    dense = [tensor for tensor in dense if tensor.numel()]
    if not dense:
        return True
    largest = torch._foreach_norm(dense, float('inf'))
    return bool(torch.stack([value.float() for value in largest]).isfinite().all())


def report(runner: Any, batch: Any, what: str) -> str:
    """Runs a batch again and names the first module or parameter with a non-finite value."""
    model = runner.model
    if is_model_wrapper(model) and not isinstance(model, FullyShardedDataParallel):
        model = model.module
    head = f'iteration {runner.iter}, rank {get_rank()}: {what}; '
    for name, parameter in model.named_parameters():
        if not finite([parameter.detach()]):
            return head + f'parameter {name} is not finite already'
    model.zero_grad(set_to_none=True)
    seed_generators(MODEL, runner.seed, get_rank(), runner.iter)
    with _watched(model) as found:
        _forward_and_backward(model, runner.optim_wrapper, batch, found)
    return head + _sentence(found, runner.optim_wrapper)


def _forward_and_backward(model: BaseModel, optim_wrapper: Any, batch: Any, found: dict) -> None:
    inner = model.module if is_model_wrapper(model) else model
    with torch.enable_grad(), optim_wrapper.optim_context(model):
        data = inner.data_preprocessor(batch, True)
        if not _all_finite(data):
            found['forward'] = 'the data, after preprocessing'
        arguments, named = ([], data) if isinstance(data, dict) else (data, {})
        losses = model(*arguments, **named, mode='loss')
        loss, named = inner.parse_losses(losses)
    if 'forward' not in found and not loss.isfinite():
        bad = [name for name, value in named.items() if name != 'loss' and not value.isfinite()]
        found['forward'] = f'the losses {", ".join(bad)}'
    if 'forward' not in found:
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        (loss if scaler is None else scaler.scale(loss)).backward()


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict]:
    """Records the first non-finite output of a module, and the first non-finite gradient."""
    found: dict[str, str] = {}
    handles = []

    def watch(tensor: Tensor, name: str) -> None:
        def note(gradient: Tensor) -> None:
            if 'backward' not in found and not gradient.isfinite().all():
                found['backward'] = name

        if tensor.requires_grad:
            handles.append(tensor.register_hook(note))

    def looking_at(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple, output: Any) -> None:
            if 'forward' not in found and not _all_finite(output):
                tensors = ', '.join(f'{tuple(t.shape)} {t.dtype}' for t in _tensors(output))
                largest = max((t.abs().max().item() for t in _tensors(inputs)), default=0.0)
                found['forward'] = (
                    f'module {name or "(whole model)"} ({type(module).__name__}), of output '
                    f'{tensors}; the largest absolute value of its input is {largest:.4g}'
                )
            for tensor in _tensors(output):
                watch(tensor, f'with respect to the output of module {name}')

        return look

    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(looking_at(name)))
    for name, parameter in model.named_parameters():
        watch(parameter, f'of parameter {name}')
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _sentence(found: dict, optim_wrapper: Any) -> str:
    if 'forward' in found:
        text = f'in the forward pass, the first non-finite value is in {found["forward"]}'
    elif 'backward' in found:
        text = (
            'in the backward pass, the first non-finite value is the gradient ' + found['backward']
        )
    else:
        text = 'a second run of the batch is finite; another process may have caused it'
    if getattr(optim_wrapper, 'cast_dtype', None) != torch.bfloat16 and hasattr(
        optim_wrapper, 'loss_scaler'
    ):
        text += "; bfloat16, optim_wrapper=dict(dtype='bfloat16'), has float32's range"
    return text


def _tensors(nested: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a module's inputs or outputs."""
    if isinstance(nested, Tensor):
        if nested.is_floating_point() and nested.numel():
            yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from _tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from _tensors(value)


def _all_finite(nested: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(nested))

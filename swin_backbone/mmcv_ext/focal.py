"""Sigmoid and softmax focal loss (Lin et al., Focal Loss for Dense Object Detection).

As in mmcv's CUDA kernels, with the probability ``p`` of a class and float32's smallest normal
number ``FLT_MIN``: the loss of the target class is ``-alpha (1 - p)^gamma log(max(p, FLT_MIN))``.
The loss of other classes, for sigmoids only, is ``-(1 - alpha) p^gamma log(max(1 - p, FLT_MIN))``.

A target outside of ``[0, num_classes)`` is background: it is no class of a sigmoid loss and has no
softmax loss. mmcv's kernels read class weights out of bounds for background; its weight here is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .calling import operator, wide

TINY = torch.finfo(torch.float32).tiny


@operator
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of each class.

    Args:
        input: Logits (N, C).
        target: Class of each row, int64 (N,).
        weight: Weight of each target class (C,), or empty.
        output: Losses (N, C), overwritten.
        gamma: Exponent that reduces the loss of well-classified examples.
        alpha: Weight of the target class; others have ``1 - alpha``.
    """
    if input.numel() == 0:
        return
    p = wide(input).sigmoid()
    loss = p.pow(gamma).mul_(_log(1 - p)).mul_(alpha - 1)
    label, known = _labels(target, input.shape[1])
    of_label = p.gather(1, label)
    positive = -alpha * (1 - of_label).pow(gamma) * _log(of_label)
    _finish(loss, positive, label, known, weight, output)


@operator
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the gradients of the logits; see :func:`sigmoid_focal_loss_forward`."""
    if input.numel() == 0:
        return
    p = wide(input).sigmoid()
    q = 1 - p
    grad = (gamma * q).mul_(_log(q)).sub_(p).mul_(p.pow(gamma)).mul_(alpha - 1)
    label, known = _labels(target, input.shape[1])
    p, q = p.gather(1, label), q.gather(1, label)
    positive = -alpha * q.pow(gamma) * (q - gamma * p * _log(p))
    _finish(grad, positive, label, known, weight, grad_input)


@operator
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of each row, 0 for background.

    Args:
        input: Probabilities (N, C): the softmax of the logits.
        target: Class of each row, int64 (N,).
        weight: Weight of each target class (C,), or empty.
        output: Losses (N,), overwritten.
        gamma: Exponent that reduces the loss of well-classified examples.
        alpha: Factor of all losses.
    """
    if input.numel() == 0:
        output.zero_()
        return
    label, known = _labels(target, input.shape[1])
    p = wide(input).gather(1, label)
    loss = -alpha * (1 - p).pow(gamma) * _log(p)
    output.copy_((loss * _weights(weight, label, known) * known)[:, 0])


@operator
def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Writes the gradient of each row's loss with respect to its logits, not the probabilities.

    Args:
        input: Probabilities (N, C).
        target: Class of each row, int64 (N,).
        weight: Weight of each target class (C,), or empty.
        buff: Overwritten with the derivative with respect to the target's log probability (N,).
        grad_input: Overwritten with the gradient (N, C).
        gamma: As for the forward function.
        alpha: As for the forward function.
    """
    if input.numel() == 0:
        buff.zero_()
        return
    label, known = _labels(target, input.shape[1])
    probabilities = wide(input)
    p = probabilities.gather(1, label)
    # (1 - p)^(gamma - 1) log(p) is 0 at p = 1; clamping avoids infinity times 0.
    slope = gamma * (1 - p).clamp(min=TINY).pow(gamma - 1) * p * _log(p)
    by_log = alpha * (slope - (1 - p).pow(gamma)) * _weights(weight, label, known) * known
    buff.copy_(by_log[:, 0])
    grad = -by_log * probabilities
    grad_input.copy_(grad.scatter_add_(1, label, by_log))


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=TINY).log_()


def _labels(target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Targets clamped to valid classes (N, 1), and whether they were valid (N, 1)."""
    known = (target >= 0) & (target < num_classes)
    return target.clamp(0, num_classes - 1)[:, None], known[:, None]


def _weights(weight: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Weights of the rows (N, 1); (1, 1) without class weights."""
    if weight.numel() == 0:
        return torch.ones((1, 1), dtype=torch.float32, device=label.device)
    return torch.where(known, wide(weight)[label], 1)


def _finish(
    values: Tensor, positive: Tensor, label: Tensor, known: Tensor, weight: Tensor, output: Tensor
) -> None:
    """Replaces the target classes' values, applies the weights and writes the result."""
    positive = torch.where(known, positive, values.gather(1, label))
    values.scatter_(1, label, positive)
    if weight.numel():
        values *= _weights(weight, label, known)
    output.copy_(values)

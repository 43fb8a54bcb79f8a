"""The steps of mmcv's synchronized batch norm (``MMSyncBN``), which communicates between them.

Statistics are float32 (C,); inputs and outputs are (N, C, pixels) of any floating-point dtype.
"""

from __future__ import annotations

from torch import Tensor

from .calling import operator, wide


@operator
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Writes each channel's mean."""
    mean.copy_(wide(input).mean((0, 2)))


@operator
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Writes each channel's mean squared difference from ``mean``."""
    var.copy_((wide(input) - mean[:, None]).square_().mean((0, 2)))


@operator
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Writes normalized input, standard deviations and output; updates the running statistics.

    Args:
        input: (N, C, pixels).
        mean: Mean over all processes, (C,).
        var: Biased variance over all processes, (C,).
        weight: (C,).
        bias: (C,).
        running_mean: Running mean, updated.
        running_var: Running unbiased variance, updated.
        norm: Overwritten, (input - mean) / std.
        std: Overwritten, sqrt(var + eps).
        output: Overwritten, norm * weight + bias.
        eps: Added to the variance.
        momentum: Weight of the new statistics.
        group_size: Number of processes. All have as many elements as this one.
    """
    std.copy_((var + eps).sqrt_())
    norm.copy_((wide(input) - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * (count / (count - 1)) if count > 1 else var
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (unbiased - running_var)


@operator
def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """Writes the gradients of weight and bias."""
    grad = wide(grad_output)
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


@operator
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Writes the gradient of the input, given those of weight and bias over all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    mean = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((wide(grad_output) - mean) * (weight / std)[:, None])

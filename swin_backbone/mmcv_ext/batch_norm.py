"""The parts of mmcv's synchronized batch norm (``MMSyncBN``), between which it communicates.

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
    """Writes each channel's mean square difference from the mean given."""
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
    """Writes what was normalized, the deviations and the output; updates the running statistics.

    Args:
        input: (N, C, pixels).
        mean: Of all processes, (C,).
        var: Of all processes, divided by the number of elements.
        weight: (C,).
        bias: (C,).
        running_mean: Moved by ``momentum`` towards the mean.
        running_var: Moved likewise towards the variance divided by the number of elements less one.
        norm: Overwritten, (input - mean) / std.
        std: Overwritten, sqrt(var + eps).
        output: Overwritten, norm * weight + bias.
        eps: Added to the variance.
        momentum: The part that is new.
        group_size: Processes, each with as many elements as this one.
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
    """Writes the input's gradient, given those of weight and bias, which are of all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    mean = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((wide(grad_output) - mean) * (weight / std)[:, None])

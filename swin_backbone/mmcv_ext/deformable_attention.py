"""Multi-scale deformable attention (Zhu et al., Deformable DETR, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .bilinear import bag_sums, samples
from .calling import batches, operator, wide


@operator
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted sums of samples of all levels' maps: (B, Q, heads * D).

    Args:
        value: Concatenated pixels of the levels' maps (B, pixels, heads, D).
        value_spatial_shapes: Height and width of each map, int64 (L, 2).
        value_level_start_index: Index of each map's first pixel, int64 (L,).
        sampling_locations: x and y of each sample (B, Q, heads, L, P, 2). A map's left or upper
            edge is 0, its right or lower edge 1; values beyond the map are zero.
        attention_weights: Weight of each sample (B, Q, heads, L, P).
        im2col_step: Unused; memory is bounded without it.
    """
    B, _, heads, D = value.shape
    Q = sampling_locations.shape[1]
    output = value.new_empty((B, Q, heads * D))
    for part in batches(B, 4 * attention_weights[:1].numel()):
        samples = wide(sampling_locations[part]), wide(attention_weights[part])
        levels = value_spatial_shapes, value_level_start_index
        output[part] = _sampled(wide(value[part]), *samples, *levels)
    return output


@operator
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Adds to ``grad_value`` and writes the other gradients; see :func:`ms_deform_attn_forward`."""
    for part in batches(len(value), 4 * attention_weights[:1].numel()):
        inputs = (value, sampling_locations, attention_weights)
        leaves = [wide(tensor[part].detach()).requires_grad_() for tensor in inputs]
        levels = value_spatial_shapes, value_level_start_index
        with torch.enable_grad():
            output = _sampled(leaves[0], leaves[1], leaves[2], *levels)
        grads = torch.autograd.grad(output, leaves, wide(grad_output[part]))
        grad_value[part] += grads[0]
        grad_sampling_loc[part] = grads[1]
        grad_attn_weight[part] = grads[2]


def _sampled(
    value: Tensor, locations: Tensor, attention: Tensor, shapes: Tensor, starts: Tensor
) -> Tensor:
    (B, keys, heads, D), (Q, L, P) = value.shape, (locations.shape[i] for i in (1, 3, 4))
    height, width = (shapes.to(value.device)[:, i].view(L, 1) for i in range(2))
    y = locations[..., 1] * height - 0.5  # (B, Q, heads, L, P)
    x = locations[..., 0] * width - 0.5
    table = torch.cat([value.reshape(-1, D), value.new_zeros(1, D)])
    # A pixel has one row per head.
    image = torch.arange(B, device=value.device).view(B, 1, 1, 1, 1) * keys
    first = image + starts.to(value.device).view(L, 1)
    none = len(table) - 1
    rows, weights = samples(y, x, height, width, first, none, attention)
    head = torch.arange(heads, device=value.device).view(heads, 1, 1, 1)
    rows = torch.where(rows == none, none, rows * heads + head)
    bags = (bag.reshape(B * Q * heads, L * P * 4) for bag in (rows, weights))
    return bag_sums(table, *bags).view(B, Q, heads * D)

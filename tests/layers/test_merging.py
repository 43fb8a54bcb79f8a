"""Patch merging against ``nn.Unfold``, whose channel order the weights are in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from swin_backbone.layers import PatchMerging


def by_unfold(merging: PatchMerging, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pads so that no token of the map is left out, as far as 2×2 neighbourhoods reach them."""
    stride = merging.stride
    x = x.transpose(1, 2).unflatten(2, size)
    bottom, right = (max((-(-n // stride) - 1) * stride + 2 - n, 0) for n in size)
    x = F.unfold(F.pad(x, (0, right, 0, bottom)), kernel_size=2, stride=stride).transpose(1, 2)
    return merging.reduction(merging.norm(x))


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 4), (2, 1), (1, 1)])
def test_agrees_with_unfold(stride, size):
    torch.manual_seed(0)
    merging = PatchMerging(6, 10, stride=stride).double()
    for parameter in merging.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, size[0] * size[1], 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, *merging.parameters()]
    results = []
    for out in (merging(x, size)[0], by_unfold(merging, x, size)):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
    assert merging(x, size)[1] == tuple(-(-n // stride) for n in size)


def test_hooks_see_the_neighbours():
    merging, seen = PatchMerging(6, 10), []
    merging.norm.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape))
    merging.reduction.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    merging(torch.randn(2, 35, 6), (5, 7))
    assert seen == [(2, 12, 24), (2, 12, 10)]

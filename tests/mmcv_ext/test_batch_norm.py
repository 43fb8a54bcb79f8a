"""mmcv's synchronized batch norm in one process is a batch norm."""

from __future__ import annotations

import mmcv.ops.sync_bn
import pytest
import torch
from agreement import agree

from swin_backbone import mmcv_ext as ours


@pytest.fixture(autouse=True)
def _wrapper(monkeypatch):
    """mmcv's function calls ours."""
    monkeypatch.setattr(mmcv.ops.sync_bn, 'ext_module', ours)


def layers():
    """mmcv's and torch's, with the same weights, in training mode."""
    norms = mmcv.ops.sync_bn.SyncBatchNormFunction, torch.nn.BatchNorm2d(4, momentum=0.3)
    torch.nn.init.normal_(norms[1].weight)
    torch.nn.init.normal_(norms[1].bias)
    return norms


@pytest.mark.parametrize('mode', ['default', 'N'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_is_a_batch_norm(mode, dtype):
    function, norm = layers()
    copies = [p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias)]
    statistics = [x.clone() for x in (norm.running_mean, norm.running_var)]
    x = torch.randn(3, 4, 5, 2).to(dtype).requires_grad_()
    out = function.apply(x, *statistics, *copies, 0.3, 1e-5, None, 1, mode)
    wide = x.detach().float().requires_grad_()
    wanted = norm(wide)
    agree(out, wanted, dtype)
    agree(statistics[0], norm.running_mean, torch.float32)
    agree(statistics[1], norm.running_var, torch.float32)
    factor = torch.randn(out.shape).to(dtype)
    found = torch.autograd.grad((out * factor).sum(), (x, *copies))
    grads = torch.autograd.grad((wanted * factor).sum(), (wide, norm.weight, norm.bias))
    for mine, theirs in zip(found, grads, strict=True):
        agree(mine, theirs, dtype)


def test_two_processes():
    """What each writes from statistics of both, as mmcv averages them between the calls."""
    _, norm = layers()
    x = torch.randn(4, 4, 3, 2)
    halves = [half.flatten(2) for half in x.chunk(2)]
    means, variances = torch.empty(2, 4), torch.empty(2, 4)
    for half, mean in zip(halves, means, strict=True):
        ours.sync_bn_forward_mean(half, mean)
    mean = means.mean(0)
    for half, var in zip(halves, variances, strict=True):
        ours.sync_bn_forward_var(half, mean, var)
    outs = []
    for half in halves:
        running = [torch.zeros(4), torch.ones(4)]
        out, normed, std = torch.empty_like(half), torch.empty_like(half), torch.empty(4)
        ours.sync_bn_forward_output(
            *(half, mean, variances.mean(0), norm.weight, norm.bias, *running, normed, std, out),
            eps=norm.eps,
            momentum=torch.tensor(0.3),
            group_size=2,
        )
        outs.append(out)
    agree(torch.cat(outs).view_as(x), norm(x), torch.float32)
    agree(running[0], norm.running_mean, torch.float32)
    agree(running[1], norm.running_var, torch.float32)

"""The focal losses against their definition. mmcv has no CPU kernels of them to compare with."""

from __future__ import annotations

import math

import mmcv.ops.focal_loss
import pytest
import torch
from agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

from swin_backbone import mmcv_ext as ours

TINY = torch.finfo(torch.float32).tiny
LARGEST_LOG = math.log(TINY)


def sigmoid_loss(logits, target, weight, gamma, alpha):
    p = logits.sigmoid()
    losses = logits * 0
    for n, t in enumerate(target.tolist()):
        for c in range(logits.shape[1]):
            if c == t:
                loss = -alpha * (1 - p[n, c]) ** gamma * p[n, c].clamp(min=TINY).log()
            else:
                loss = -(1 - alpha) * p[n, c] ** gamma * (1 - p[n, c]).clamp(min=TINY).log()
            known = weight is not None and 0 <= t < logits.shape[1]
            losses[n, c] = loss * weight[t] if known else loss
    return losses


def softmax_loss(logits, target, weight, gamma, alpha):
    p = logits.softmax(1)
    losses = logits[:, 0] * 0
    for n, t in enumerate(target.tolist()):
        if 0 <= t < logits.shape[1]:
            loss = -alpha * (1 - p[n, t]) ** gamma * p[n, t].clamp(min=TINY).log()
            losses[n] = loss * (1 if weight is None else weight[t])
    return losses


LOSSES = {'sigmoid': sigmoid_loss, 'softmax': softmax_loss}


@pytest.fixture(autouse=True, scope='module')
def _wrappers():
    """mmcv's functions call ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmcv.ops.focal_loss, 'ext_module', ours)
        yield


def focal_loss(kind):
    return getattr(mmcv.ops, f'{kind}_focal_loss')


@pytest.mark.parametrize('kind', LOSSES)
@settings(max_examples=15)
@given(
    rows=st.integers(0, 5),
    classes=st.integers(1, 4),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3]),
    alpha=st.sampled_from([0.25, 0.7, 1.0]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 99),
)
def test_losses_and_gradients(kind, rows, classes, gamma, alpha, weighted, dtype, seed):
    """Of logits that are not contiguous; targets out of range are background."""
    if kind == 'softmax' and (rows == 0 or classes == 1):
        return  # mmcv's wrapper takes the largest of no logits; 0 ** (gamma - 1) is infinite
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, rows, generator=random, dtype=dtype).t()
    target = torch.randint(-1, classes + 2, (rows,), generator=random)
    weight = torch.rand(classes, generator=random, dtype=dtype) if weighted else None
    logits, copy = (x.requires_grad_() for x in (logits, logits.double().clone()))
    losses = focal_loss(kind)(logits, target, gamma, alpha, weight, 'none')
    wanted = LOSSES[kind](copy, target, weight if weight is None else weight.double(), gamma, alpha)
    agree(losses, wanted, dtype)
    (grad,) = torch.autograd.grad(
        focal_loss(kind)(logits, target, gamma, alpha, weight, 'sum'), logits
    )
    agree(grad, torch.autograd.grad(wanted.sum(), copy)[0], dtype)


def test_the_gradient_of_each_loss():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target, factor = torch.tensor([0, 3, 4]), torch.randn(3, 4, dtype=torch.float64)
    losses = [
        focal_loss('sigmoid')(logits, target, 2.0, 0.25, None, 'none'),
        sigmoid_loss(logits, target, None, 2.0, 0.25),
    ]
    agree(*(torch.autograd.grad((x * factor).sum(), logits)[0] for x in losses))


def test_known_values():
    """Of a probability of 1/2, with the paper's gamma and alpha."""
    logits, target = torch.zeros(1, 2), torch.tensor([1])
    of_half = 0.25 * torch.tensor(2.0).log()
    losses = focal_loss('sigmoid')(logits, target, 2.0, 0.25, None, 'none')
    agree(losses, torch.stack([0.75 * of_half, 0.25 * of_half])[None], torch.float32)
    loss = focal_loss('softmax')(logits, target, 2.0, 0.25, None, 'none')
    agree(loss, 0.25 * of_half[None], torch.float32)


def test_mean():
    logits, target = torch.randn(6, 3), torch.randint(0, 4, (6,))
    each = focal_loss('sigmoid')(logits, target, 2.0, 0.25, None, 'none')
    agree(focal_loss('sigmoid')(logits, target), each.sum() / 6, torch.float32)


@pytest.mark.parametrize('kind', LOSSES)
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_certain_classes_are_finite(kind, gamma):
    """The logarithm is of float32's smallest normal number at least, and 0 / 0 does not arise."""
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    losses = focal_loss(kind)(logits, torch.tensor([0, 0]), gamma, 0.25, None, 'none')
    assert losses.max().item() == pytest.approx(
        -LARGEST_LOG * (0.25 if kind == 'softmax' else 0.75)
    )
    (grad,) = torch.autograd.grad(
        focal_loss(kind)(logits, torch.tensor([0, 0]), gamma, 0.25, None, 'sum'), logits
    )
    assert grad.isfinite().all()


@pytest.mark.parametrize('kind', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    logits, target = torch.randn(5, 3).to(dtype), torch.tensor([0, 1, 2, 3, 0])
    inputs = logits if kind == 'sigmoid' else logits.float().softmax(1).to(dtype)
    results = []
    for x in (inputs, inputs.float()):
        output = x.new_empty(x.shape if kind == 'sigmoid' else x.shape[:1])
        forward = getattr(ours, f'{kind}_focal_loss_forward')
        forward(x, target, x.new_empty(0), output, gamma=2.0, alpha=0.25)
        results.append(output)
    assert results[0].dtype == dtype and torch.equal(results[0], results[1].to(dtype))

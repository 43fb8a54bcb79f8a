"""The kernels as users call them: through the operator, and in a backbone.

test_triton.py runs this in a process of its own, on the GPU or under Triton's interpreter.
"""

from __future__ import annotations

import pytest
import torch

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.window_attention import explain_backend, shifted_window_attention
from swin_backbone.ops.window_attention.operator import attention_op

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# GPUs have no float64 kernels.
EXACT, TOLERANCE = (torch.float32, 1e-4) if DEVICE == 'cuda' else (torch.float64, 1e-10)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def draw(padding: bool) -> list[torch.Tensor | None]:
    shapes = (2, 5, 7, 3 * 2 * 16), (2, 16, 16), (3 * 2 * 16,)
    inputs = [torch.randn(s, dtype=EXACT, device=DEVICE, requires_grad=True) for s in shapes]
    return inputs if padding else [*inputs[:2], None]


def results(function, inputs: list, weights: list) -> list[torch.Tensor]:
    """Outputs, and gradients of the inputs that are not None."""
    outs = function()
    loss = sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True))
    given = [x for x in inputs if x is not None]
    return [*(out.detach() for out in outs), *torch.autograd.grad(loss, given)]


def assert_near(ours: list, exact: list) -> None:
    for mine, other in zip(ours, exact, strict=True):
        size = other.abs().max().clamp(min=1)
        torch.testing.assert_close(mine / size, other / size, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize('padding', [True, False])
@pytest.mark.parametrize('shift', [0, 2])
def test_operator_agrees_with_the_reference(padding, shift):
    inputs, found = draw(padding), []
    weights = [torch.randn(2, 5, 7, 32, dtype=EXACT, device=DEVICE)]
    for backend in ('triton', 'reference'):
        found.append(
            results(
                lambda backend=backend: [
                    shifted_window_attention(
                        *inputs[:2],
                        window_size=4,
                        shift_size=shift,
                        padding=inputs[2],
                        backend=backend,
                    )
                ],
                inputs,
                weights,
            )
        )
    assert_near(*found)


@pytest.mark.parametrize('padding', [True, False])
def test_operator_is_well_formed(padding):
    torch.library.opcheck(attention_op, (*draw(padding), 4, 2, 0.5, 'triton'))


@pytest.mark.parametrize('backbone', [SwinTransformer, SwinTransformerV2])
def test_backbone_agrees_with_the_reference(backbone):
    """Two stages with shifted windows, padding and odd sides."""
    model = backbone(
        embed_dims=16,
        depths=(2, 2),
        num_heads=(1, 2),
        strides=(4, 2),
        out_indices=(0, 1),
        window_size=4,
        drop_path_rate=0.0,
    ).to(DEVICE, EXACT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(1, 3, 21, 38, dtype=EXACT, device=DEVICE, requires_grad=True)
    weights = [torch.randn_like(out) for out in model(x)]
    found = []
    for backend in ('triton', 'reference'):
        with use_backend(backend):
            assert explain_backend(DEVICE, EXACT, window_size=4, head_dim=16).backend == backend
            found.append(results(lambda: model(x), [x, *model.parameters()], weights))
    assert_near(*found)

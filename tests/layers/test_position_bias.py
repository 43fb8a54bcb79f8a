"""V1's position bias: what indexing the table gives, whatever index a checkpoint brings."""

from __future__ import annotations

import pytest
import torch

from swin_backbone.layers.attention import WindowMSA, relative_position_index


def indexed(attention: WindowMSA, index: torch.Tensor) -> torch.Tensor:
    return attention.relative_position_bias_table[index].permute(2, 0, 1)


def drawn(window_size: int) -> WindowMSA:
    attention = WindowMSA(12, 3, window_size).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    return attention


@pytest.mark.parametrize('window_size, size', [(1, 1), (4, 4), (4, 2), (4, 1), (7, None), (12, 5)])
def test_bias_is_the_indexed_table(window_size, size):
    """Bit for bit, of smaller windows too; and the same gradient."""
    attention = drawn(window_size)
    table = attention.relative_position_bias_table
    index = relative_position_index(window_size).view([window_size] * 4)
    side = size or window_size
    index = index[:side, :side, :side, :side].reshape(side**2, side**2)
    bias, expected = attention.relative_position_bias(size), indexed(attention, index)
    assert bias.is_contiguous() and torch.equal(bias, expected)
    grad = torch.randn_like(bias)
    ours, theirs = (torch.autograd.grad(b, table, grad)[0] for b in (bias, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('assign', [False, True])
def test_index_of_a_checkpoint_is_used(assign):
    attention, other = drawn(3), relative_position_index(3).flip(0)
    weights = {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    attention.load_state_dict(weights | {'relative_position_index': other}, assign=assign)
    assert torch.equal(attention.relative_position_bias(), indexed(attention, other))
    assert torch.equal(
        attention.relative_position_bias(2)[:, 0, 0], indexed(attention, other)[:, 0, 0]
    )
    attention.load_state_dict(weights, assign=assign)
    usual = indexed(attention, relative_position_index(3))
    assert torch.equal(attention.relative_position_bias(), usual)


def test_a_trace_holds_the_index():
    attention, x = drawn(2), torch.randn(1, 4, 4, 12, dtype=torch.float64)
    graph = str(torch.jit.trace(attention, x).inlined_graph)
    assert 'aten::index' in graph and 'aten::unfold' not in graph

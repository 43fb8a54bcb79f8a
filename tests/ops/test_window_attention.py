"""Compares the definition of window attention with loops over pairs of tokens."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from swin_backbone.ops.window_attention.reference import shifted_window_attention


def token_by_token(
    qkv: Tensor, bias: Tensor, window: int, shift: int, padding: Tensor, scale: float
) -> Tensor:
    """Attention by loops over tokens, with windows from positions instead of a rolled map.

    The shift moves a token at (r, c) of the padded map (Hp, Wp) to ((r - s) mod Hp, (c - s) mod
    Wp). It attends to the tokens of that window that wrapped around along the same axes; the
    official mask adds -100 to the scores of all others.
    """
    B, H, W, channels = qkv.shape
    heads = bias.shape[0]
    Hp, Wp = -(-H // window) * window, -(-W // window) * window
    full = padding.expand(B, Hp, Wp, channels).clone()
    full[:, :H, :W] = qkv
    full = full.unflatten(-1, (3, heads, -1))

    def landed(r: int, c: int) -> tuple[int, int]:
        return (r - shift) % Hp, (c - shift) % Wp

    out = qkv.new_zeros(B, H, W, channels // 3)
    positions = [(r, c) for r in range(Hp) for c in range(Wp)]
    for r in range(H):
        for c in range(W):
            y, x = landed(r, c)
            scores, values = [], []
            for r2, c2 in positions:
                y2, x2 = landed(r2, c2)
                if (y // window, x // window) != (y2 // window, x2 // window):
                    continue
                query, key = y % window * window + x % window, y2 % window * window + x2 % window
                score = (full[:, r, c, 0] * full[:, r2, c2, 1]).sum(-1) * scale + bias[
                    :, query, key
                ]
                if (r < shift) != (r2 < shift) or (c < shift) != (c2 < shift):
                    score = score - 100
                scores.append(score)
                values.append(full[:, r2, c2, 2])
            weights = torch.stack(scores).softmax(0)
            out[:, r, c] = (weights[..., None] * torch.stack(values)).sum(0).flatten(1)
    return out


def draw(
    B: int, H: int, W: int, heads: int, dim: int, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    width = 3 * heads * dim
    return tensor(B, H, W, width), tensor(heads, window**2, window**2), tensor(width)


@settings(max_examples=25)
@given(
    B=st.integers(1, 2),
    H=st.integers(1, 9),
    W=st.integers(1, 9),
    heads=st.integers(1, 3),
    dim=st.integers(1, 4),
    window=st.integers(1, 5),
    data=st.data(),
)
def test_agrees_with_a_token_by_token_count(B, H, W, heads, dim, window, data):
    shift = data.draw(st.integers(0, window - 1))
    qkv, bias, padding = draw(B, H, W, heads, dim, window)
    out = shifted_window_attention(
        qkv, bias, window_size=window, shift_size=shift, padding=padding, scale=0.7
    )
    expected = token_by_token(qkv, bias, window, shift, padding, 0.7)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    weight = torch.randn_like(out)
    inputs = (qkv, bias, padding)
    ours = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True)
    for mine, other, of in zip(ours, theirs, inputs, strict=True):
        mine = torch.zeros_like(of) if mine is None else mine
        other = torch.zeros_like(of) if other is None else other
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('shift', [0, 1])
def test_gradients_numerically(shift):
    qkv, bias, padding = draw(1, 3, 5, 2, 2, 2)
    assert torch.autograd.gradcheck(
        lambda q, b, p: shifted_window_attention(q, b, window_size=2, shift_size=shift, padding=p),
        (qkv, bias, padding),
    )


def test_padding_is_zero_unless_given():
    qkv, bias, _ = draw(1, 5, 4, 2, 3, 3)
    zero = torch.zeros(qkv.shape[-1], dtype=qkv.dtype)
    for shift in (0, 1):
        kwargs = dict(window_size=3, shift_size=shift)
        torch.testing.assert_close(
            shifted_window_attention(qkv, bias, **kwargs),
            shifted_window_attention(qkv, bias, padding=zero, **kwargs),
        )


def test_empty_batch_and_strided_input():
    qkv, bias, padding = draw(2, 6, 5, 2, 4, 4)
    kwargs = dict(window_size=4, shift_size=2, padding=padding)
    assert shifted_window_attention(qkv[:0], bias, **kwargs).shape == (0, 6, 5, 8)
    strided = qkv.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(
        shifted_window_attention(strided, bias, **kwargs),
        shifted_window_attention(qkv, bias, **kwargs),
    )


def test_dropout_keeps_the_mean_and_is_off_at_zero():
    qkv, bias, _ = draw(1, 4, 4, 1, 4, 4)
    exact = shifted_window_attention(qkv, bias, window_size=4)
    assert torch.equal(exact, shifted_window_attention(qkv, bias, window_size=4, dropout_p=0.0))
    many = torch.stack(
        [shifted_window_attention(qkv, bias, window_size=4, dropout_p=0.5) for _ in range(2000)]
    ).detach()
    error = (many.mean(0) - exact).abs() / (many.std(0) / 2000**0.5)
    assert error.max() < 5
    assert many.std(0).min() > 0

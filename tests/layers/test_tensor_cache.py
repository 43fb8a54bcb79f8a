"""The position bias that is computed once for inference is never an old one."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone.layers import WindowMSAV2


@pytest.fixture
def attention() -> WindowMSAV2:
    return WindowMSAV2(8, 2, 3).eval()


@torch.no_grad()
def bias_of(attention: WindowMSAV2) -> torch.Tensor:
    """The bias, which must be what it is computed to be."""
    bias = attention.relative_position_bias()
    torch.testing.assert_close(bias, attention._computed_bias(3), rtol=0, atol=0)
    return bias


def test_it_is_tensor_cache(attention):
    first = bias_of(attention)
    assert bias_of(attention) is first
    with torch.no_grad():
        small = attention.relative_position_bias(2)
        assert small.shape == (2, 4, 4) and attention.relative_position_bias(2) is small
        for window in range(1, 9):
            attention.relative_position_bias(window)
    assert len(attention._bias_cache._entries) == attention._bias_cache.most


def load(attention, assign):
    state = {k: 2 * v + 1 for k, v in attention.state_dict().items()}
    attention.load_state_dict(state, assign=assign)


def step(attention, **options):
    bias = attention.relative_position_bias()
    bias.square().sum().backward()
    bias_of(attention)
    torch.optim.AdamW(attention.parameters(), lr=0.1, **options).step()
    bias_of(attention)
    attention.zero_grad()


def other_memory(attention):
    for _ in range(2):
        attention.cpb_mlp[0].weight.data = attention.cpb_mlp[0].weight.data + 1


def through_data(attention):  # as averaging hooks swap weights, before an evaluation begins
    attention.cpb_mlp[2].weight.data.mul_(3)
    attention.eval()


CHANGES = {
    'load_state_dict': lambda a: load(a, assign=False),
    'load_state_dict, assigned': lambda a: load(a, assign=True),
    'in place': lambda a: nn.init.ones_(a.cpb_mlp[0].bias),
    'a new parameter': lambda a: setattr(a.cpb_mlp[2], 'weight', nn.Parameter(torch.ones(2, 512))),
    'a new network': lambda a: setattr(
        a, 'cpb_mlp', copy.deepcopy(a.cpb_mlp).requires_grad_(False)
    ),
    'step': step,
    'foreach step': lambda a: step(a, foreach=True),
    'fused step': lambda a: step(a, fused=True),
    'double': lambda a: a.double(),
    'other memory': other_memory,
    'through data': through_data,
    'training in between': lambda a: (a.train(), through_data(a)),
}


@pytest.mark.parametrize('change', CHANGES)
def test_it_follows_every_change(attention, change):
    before = bias_of(attention)
    CHANGES[change](attention)
    after = bias_of(attention)
    assert after is not before
    assert bias_of(attention) is after


def test_gradients_and_training_have_their_own(attention):
    kept = bias_of(attention)
    bias = attention.relative_position_bias()
    assert bias.requires_grad and bias is not kept
    with torch.no_grad():
        attention.train()
        assert attention.relative_position_bias() is not attention.relative_position_bias()


def test_counters_see_the_work(attention):
    bias_of(attention)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        attention.relative_position_bias()
    assert counter.get_total_flops() == 2 * 25 * 512 * (2 + 2)


def test_copies_are_on_their_own(attention):
    bias = bias_of(attention)
    twin = copy.deepcopy(attention)
    nn.init.ones_(twin.cpb_mlp[0].bias)
    bias_of(twin)
    assert bias_of(attention) is bias
    shallow = copy.copy(attention)
    nn.init.ones_(shallow.cpb_mlp[0].bias)
    bias_of(attention), bias_of(shallow)


def test_inference_mode(attention):
    with torch.inference_mode():
        bias = attention.relative_position_bias()
        assert attention.relative_position_bias() is bias
    x = torch.randn(1, 6, 6, 8, requires_grad=True)
    with torch.no_grad():
        attention(x)
    attention(x).sum().backward()
    assert attention.cpb_mlp[0].weight.grad is not None


def test_threads_share_it(attention):
    failures = []

    def work(window):
        with torch.no_grad():
            for _ in range(50):
                bias = attention.relative_position_bias(window)
                if bias.shape != (2, window**2, window**2):
                    failures.append(window)

    threads = [threading.Thread(target=work, args=(window,)) for window in (1, 2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures

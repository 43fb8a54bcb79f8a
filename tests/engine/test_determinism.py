"""``randomness=dict(seed=…, deterministic=True)``: two runs are equal, bit for bit."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner import set_random_seed
from small import SMALL

from swin_backbone import SwinTransformer
from swin_backbone.ops.backends import use_backend


@pytest.fixture
def deterministic():
    yield lambda: set_random_seed(5, deterministic=True)
    torch.use_deterministic_algorithms(False)


def trained(with_cp: bool | str, attn_drop_rate: float) -> dict:
    """Weights after three steps, with all that is drawn at random."""
    rates = dict(drop_path_rate=0.3, drop_rate=0.1, attn_drop_rate=attn_drop_rate)
    model = SwinTransformer(**SMALL, **rates, with_cp=with_cp)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        loss = sum(out.square().mean() for out in model(torch.randn(2, 3, 40, 56)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('backend', ['reference', 'sdpa', 'cpu', 'auto'])
def test_two_runs_of_a_backend_are_equal(deterministic, backend, with_cp):
    attn_drop_rate = 0.0 if backend == 'cpu' else 0.1  # which that one does not have
    with use_backend(backend):
        deterministic()
        first = trained(with_cp, attn_drop_rate)
        deterministic()
        second = trained(with_cp, attn_drop_rate)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first['patch_embed.projection.bias'], torch.zeros(24))

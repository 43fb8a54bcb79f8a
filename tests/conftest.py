"""Shared by every test: quiet threads, reproducible draws, small models, peers' models."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from swin_backbone import SwinTransformer

# Two xdist workers on two cores: more threads than that only get in each other's way.
torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)

settings.register_profile('suite', deadline=None, derandomize=True, print_blob=True)
settings.load_profile('suite')

SMALL = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), window_size=4)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small() -> dict:
    """Arguments of a small backbone."""
    return dict(SMALL)


@pytest.fixture
def small_model(small: dict) -> SwinTransformer:
    """A small backbone with every weight drawn at random, in evaluation mode."""
    return randomized(SwinTransformer(**small)).eval()


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """Draws every parameter, so that no bias, table or norm is at a value that hides a mistake."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if 'norm' in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.1)
    return module

"""A small backbone, and weights in which no mistake can hide."""

from __future__ import annotations

import torch

SMALL = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), window_size=4)


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """Draws every parameter, so that no bias, table or norm is at a value that hides a mistake."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if 'norm' in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.1)
    return module

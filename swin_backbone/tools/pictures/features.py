"""A feature map as a picture: its three strongest directions as red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError

PERCENTILES = (1, 99)  # of a component's values: what becomes 0 and 1
COMPONENTS = 3


@dataclass(frozen=True)
class Colours:
    """A feature map as colours.

    Attributes:
        rgb: From 0 to 1, float64 (H, W, 3).
        explained: Share of the map's variance that the three directions have, from 0 to 1.
    """

    rgb: np.ndarray
    explained: float


def principal_colours(features: Tensor) -> Colours:
    """The three principal components of a map's tokens as red, green and blue.

    Each component is stretched so that its 1st and 99th percentile become 0 and 1; its sign is
    that for which its rare, far values are the bright ones (a third moment that is not negative).
    So equal maps have equal colours, and a map whose channels are permuted or rotated has the
    same. Where a component has no variance, its colour is 0.5 all over.

    Args:
        features: (C, H, W).

    Raises:
        ArgumentError: Features that are not finite.
    """
    channels, height, width = features.shape
    if wrong := int((~features.isfinite()).sum()):
        raise ArgumentError(
            f'{wrong} of {features.numel()} features are not finite: the weights are broken, or '
            'the precision is too low'
        )
    tokens = features.detach().flatten(1).T.double().cpu()
    tokens = tokens - tokens.mean(0)
    # The eigenvectors of the smaller of C × C and L × L; exact, unlike randomised methods.
    if len(tokens) > channels:
        variances, directions = torch.linalg.eigh(tokens.T @ tokens)
        scores = tokens @ directions.flip(1)[:, :COMPONENTS]
    else:
        variances, directions = torch.linalg.eigh(tokens @ tokens.T)
        scores = directions.flip(1)[:, :COMPONENTS]
        scores = scores * variances.clamp(min=0).sqrt().flip(0)[:COMPONENTS]
    variances = variances.clamp(min=0).flip(0)
    total = float(tokens.square().sum())
    rgb = np.full((len(tokens), COMPONENTS), 0.5)
    for i, (score, variance) in enumerate(zip(scores.T.numpy(), variances, strict=False)):
        if variance > 1e-12 * max(total, 1e-300):
            rgb[:, i] = _stretched(score)
    explained = float(variances[:COMPONENTS].sum()) / total if total > 0 else 0.0
    return Colours(rgb.reshape(height, width, COMPONENTS), min(explained, 1.0))


def _stretched(score: np.ndarray) -> np.ndarray:
    if (score**3).sum() < 0:
        score = -score
    low, high = np.percentile(score, PERCENTILES)
    if high - low <= 0:  # nearly all are alike
        low, high = score.min(), score.max()
    return np.clip((score - low) / (high - low), 0, 1)

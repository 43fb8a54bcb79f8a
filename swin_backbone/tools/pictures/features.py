"""Feature maps as pictures: the first three principal components as red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError

PERCENTILES = (1, 99)  # of a component's values; they are mapped to 0 and 1
COMPONENTS = 3


@dataclass(frozen=True)
class Colours:
    """A feature map as colours.

    Attributes:
        rgb: float64 (H, W, 3), from 0 to 1.
        explained: The share of the map's variance in the three components, from 0 to 1.
    """

    rgb: np.ndarray
    explained: float


def principal_colours(features: Tensor) -> Colours:
    """The first three principal components of a map's tokens as red, green and blue.

    Each component is scaled so that its 1st and 99th percentiles become 0 and 1. Its sign is chosen
    so that its third moment is not negative, which makes rare extreme values bright. Therefore the
    colours are deterministic, and invariant to permutations and rotations of the channels. A
    component without variance is 0.5 everywhere.

    Args:
        features: (C, H, W).

    Raises:
        ArgumentError: Some features are not finite.
    """
    channels, height, width = features.shape
    if wrong := int((~features.isfinite()).sum()):
        raise ArgumentError(
            f'{wrong} of {features.numel()} features are not finite: the weights are broken, or '
            'the precision is too low'
        )
    tokens = features.detach().flatten(1).T.double().cpu()
    tokens = tokens - tokens.mean(0)
    # The eigenvectors of the smaller of the C × C and L × L matrices: exact and deterministic.
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
    if high - low <= 0:  # almost all values are equal
        low, high = score.min(), score.max()
    return np.clip((score - low) / (high - low), 0, 1)

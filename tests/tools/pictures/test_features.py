"""Feature maps as colours: exact, deterministic, and independent of the order of channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swin_backbone import ArgumentError
from swin_backbone.tools.pictures.features import principal_colours


def test_against_the_definition():
    """The components are those of NumPy's SVD, scaled, with signs by the third moment."""
    features = torch.rand(6, 9, 11) ** 3 * torch.arange(1, 7)[:, None, None]
    found = principal_colours(features)
    tokens = features.flatten(1).T.double().numpy()
    left, singular, _ = np.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    scores = (left * singular)[:, :3]
    scores = scores * np.where((scores**3).sum(0) < 0, -1, 1)
    low, high = np.percentile(scores, (1, 99), axis=0)
    wanted = np.clip((scores - low) / (high - low), 0, 1).reshape(9, 11, 3)
    np.testing.assert_allclose(found.rgb, wanted, atol=1e-9)
    assert found.explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum())


@pytest.mark.parametrize('shape', [(8, 12, 10), (50, 4, 5)], ids=['many tokens', 'many channels'])
def test_rotated_channels_and_scale_change_nothing(shape):
    features = torch.rand(shape, dtype=torch.float64) ** 2
    features *= torch.logspace(0, 1, shape[0], dtype=torch.float64)[:, None, None]
    rotation, _ = torch.linalg.qr(torch.randn(shape[0], shape[0], dtype=torch.float64))
    turned = torch.einsum('ij,jhw->ihw', rotation, features) * 7 + 3
    wanted = principal_colours(features)
    for other in (features, features.flip(0), turned):
        np.testing.assert_allclose(principal_colours(other).rgb, wanted.rgb, atol=1e-7)


def test_one_direction_is_one_colour():
    ramp = torch.arange(12.0).reshape(1, 3, 4) ** 2
    found = principal_colours(torch.cat([ramp, 2 * ramp, -ramp]))
    assert found.explained == pytest.approx(1)
    assert (np.diff(found.rgb[..., 0].flatten()) >= 0).all()  # what is rare is bright
    assert found.rgb[0, 0, 0] == 0 and found.rgb[-1, -1, 0] == 1
    assert (found.rgb[..., 1:] == 0.5).all()


@pytest.mark.parametrize('shape', [(8, 1, 1), (8, 5, 5), (2, 3, 3), (8, 1, 2)])
def test_what_has_few_directions(shape):
    found = principal_colours(torch.ones(shape))
    assert found.rgb.shape == (*shape[1:], 3) and (found.rgb == 0.5).all()
    assert found.explained == 0
    assert np.isfinite(principal_colours(torch.randn(shape)).rgb).all()


def test_a_lone_other_token_is_seen():
    """1 of 400 tokens is beyond the percentiles; nothing is divided by 0."""
    features = torch.zeros(4, 20, 20)
    features[:, 3, 5] = 1
    rgb = principal_colours(features).rgb
    assert rgb[3, 5, 0] == 1 and (np.delete(rgb[..., 0].flatten(), 65) == 0).all()


def test_features_that_are_not_finite():
    features = torch.ones(4, 5, 5)
    features[0, 0, :2] = float('nan')
    with pytest.raises(ArgumentError, match='2 of 100 features are not finite'):
        principal_colours(features)

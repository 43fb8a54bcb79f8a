"""Run by test_cam.py if the package grad-cam can be imported: its classes agree with ours."""

from __future__ import annotations

import numpy as np
import peers
import torch
from classifiers import IMAGE, classifier_subject

from swin_backbone.tools.pictures import cam

peers.reach_those_apart()
cam.METHODS['theirs'] = 'GradCAM'


def scaled(heat: np.ndarray) -> np.ndarray:
    """A map scaled to 0 to 1, as the package does."""
    return (heat - heat.min()) / max(heat.max() - heat.min(), 1e-7)


torch.manual_seed(0)
subject = classifier_subject()
feature = subject.backbone(subject.predictor.inputs)[-1].detach()
explained = [cam.explain(IMAGE, subject, name) for name in subject.predictor.classes]
assert sum(ours.heat.any() for ours in explained) > 1
for name, ours in zip(subject.predictor.classes, explained, strict=True):
    # Behind a mean over the map all gradients of a channel are the same.
    weights = subject.predictor.model.head.weight[subject.predictor.classes.index(name)].detach()
    gradient = weights[:, None, None] / feature[0, 0].numel()
    wanted = {
        'theirs': ours.heat,
        'hirescam': ours.heat,
        'layer-cam': (gradient.relu() * feature[0]).sum(0).relu().numpy(),
    }
    for method, heat in wanted.items():
        found = cam.explain(IMAGE, subject, name, method=method)
        np.testing.assert_allclose(found.heat, scaled(heat), atol=1e-4)  # it adds 1e-7
        assert found.target == ours.target
assert all(parameter.grad is None for parameter in subject.predictor.model.parameters())
del cam.METHODS['theirs']
for method in cam.METHODS:
    found = cam.explain(IMAGE, subject, '0', method=method)
    assert found.heat.shape == feature.shape[2:]
    print(method)

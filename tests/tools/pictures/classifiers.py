"""A small classifier of PyTorch's own modules, with mmpretrain's interface."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from small import SMALL, randomized
from torch import Tensor, nn

from swin_backbone import SwinTransformer
from swin_backbone.tools.pictures.subject import Subject

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 141, 3), dtype=np.uint8)


class Classifier(nn.Module):
    """Pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SwinTransformer(**{**SMALL, 'out_indices': (2, 3)})
        self.head = nn.Linear(192, 3)

    def forward(self, inputs: Tensor, samples: list, mode: str) -> Any:
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        return logits if mode == 'tensor' else [SimpleNamespace(pred_score=logits.softmax(1)[0])]


class Predictor:
    """The interface of a classifier's predictor."""

    task = 'classification'
    classes = ('cat', 'Dog', 'fox')

    def __init__(self) -> None:
        self.model = randomized(Classifier()).eval()
        self.inputs = torch.randn(1, 3, 75, 100)

    def prepare(self, image: np.ndarray) -> tuple[Tensor, list]:
        return self.inputs, [None]

    def name(self, label: int) -> str:
        return self.classes[label]


def classifier_subject() -> Subject:
    """A whole model, the same for the same seed."""
    predictor: Any = Predictor()
    return Subject('small', 'mine.pth', predictor.model.backbone, predictor)

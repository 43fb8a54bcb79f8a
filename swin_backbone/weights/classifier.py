"""Whole classifiers: any layout's file into a model of ``backbone`` and ``head``."""

from __future__ import annotations

from typing import Any

from . import formats
from .containers import unpack


def translate_classifier(state_dict: dict[str, Any], prefix: str = '') -> None:
    """Rewrites in place a Swin classifier's weights, as anyone publishes them, for mmpretrain's.

    The backbone's go under ``backbone.``, in OpenMMLab's layout, and the classifier's become
    ``head.fc``. What is a model of ``backbone`` and ``head`` already, has no classifier or is no
    Swin Transformer stays as it is.

    Args:
        state_dict: What is loaded into the model: a state dict, or a whole file's content.
        prefix: What stands before the model's keys.

    Raises:
        CheckpointError: It is no dict of tensors, or holds several backbones.
    """
    found = formats.under(state_dict, prefix)
    if any(key.startswith('backbone.') for key in found):
        return
    contents = unpack(found)
    neutral = contents.layout.to_openmmlab(contents.weights) if contents.layout else {}
    if 'head.fc.weight' not in neutral:
        return
    for key in found:
        del state_dict[prefix + key]
    for key, value in neutral.items():
        below = '' if key.startswith('head.') else 'backbone.'
        state_dict[prefix + below + key] = value

"""Small tests of mmcv's operators: whether their results are right, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# A function to time, and a check of its result.
Problem = tuple[Callable[[], Any], Callable[[Any], bool]]


def boxes() -> Problem:
    """Non-maximum suppression of 500 pairs of almost equal boxes."""
    import torch
    from mmcv.ops import nms

    corner = torch.arange(500.0)[:, None] * 20
    once = torch.cat([corner, corner, corner + 10, corner + 10], 1)
    twice, scores = torch.cat([once, once + 1]), torch.linspace(1, 0.5, 1000)
    return lambda: nms(twice, scores, 0.5)[1], lambda kept: kept.tolist() == list(range(500))


def regions() -> Problem:
    """RoIAlign of 100 regions, on a map of ones."""
    import torch
    from mmcv.ops import roi_align

    maps, rois = torch.ones(1, 16, 64, 64), torch.tensor([[0.0, 8, 8, 40, 56]]).repeat(100, 1)
    return lambda: roi_align(maps, rois, 7), lambda out: torch.allclose(out, maps.new_ones(1))


def convolution() -> Problem:
    """A deformable convolution whose offsets are zero."""
    import torch
    from mmcv.ops import deform_conv2d

    maps, kernel = torch.randn(1, 32, 32, 32), torch.randn(32, 32, 3, 3)
    offset = torch.zeros(1, 18, 32, 32)
    wanted = torch.nn.functional.conv2d(maps, kernel, padding=1)
    return (
        lambda: deform_conv2d(maps, offset, kernel, 1, 1),
        lambda out: torch.allclose(out, wanted, atol=1e-3),
    )


def losses() -> Problem:
    """The focal loss of 1000 boxes and 80 classes, all with a probability of 1/2."""
    import torch
    from mmcv.ops import sigmoid_focal_loss

    logits, target = torch.zeros(1000, 80), torch.zeros(1000, dtype=torch.long)
    wanted = 0.25 * torch.tensor(2.0).log() * (0.25 + 79 * 0.75)
    return lambda: sigmoid_focal_loss(logits, target), lambda mean: torch.allclose(mean, wanted)


# For each operator: the size of the problem, torchvision's equivalent if any, and the problem.
PROBLEMS: dict[str, tuple[str, str | None, Callable[[], Problem]]] = {
    'nms': ('1000 boxes', 'nms', boxes),
    'roi_align': ('100 regions of 16 channels', 'roi_align', regions),
    'deform_conv2d': ('32 channels of 32 × 32', None, convolution),
    'sigmoid_focal_loss': ('1000 × 80', None, losses),
}


def try_out(problem: Callable[[], Problem]) -> tuple[bool, float]:
    """Whether the result is right, and the time in milliseconds, the best of three."""
    run, is_right = problem()
    right, taken = is_right(run()), []
    for _ in range(3):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return right, 1000 * min(taken)

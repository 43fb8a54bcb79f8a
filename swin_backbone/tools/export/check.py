"""Compares the outputs of an exported file with those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .formats import Exported, _needed
from .parts import Part, example, run

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Check:
    """The difference between a file's outputs and PyTorch's for one input size.

    Attributes:
        shape: Batch size, height and width.
        difference: The largest absolute difference, divided by the output's largest value if that
            is above 1; for classes, the share of pixels that differ.
    """

    shape: Shape
    difference: float


def check_file(path: str | Path, part: Part, shapes: Iterable[Shape]) -> list[Check]:
    """Runs a file, in ONNX Runtime or by ``torch.export.load``, and the part on the same input.

    Args:
        path: The file.
        part: What was exported.
        shapes: Batch size, height and width of the inputs.
    """
    call = open_file(path)
    checks = []
    for shape in shapes:
        image = example(part, shape[0], shape[1:])
        pairs = zip(call(image), run(part, image), strict=True)
        checks.append(Check(shape, max(_difference(out, exact) for out, exact in pairs)))
    return checks


def shapes_to_check(exported: Exported, part: Part, batch: int, size: tuple[int, int]) -> list:
    """The input sizes that the command checks: three for a dynamic file, else one."""
    if not exported.dynamic:
        return [(batch, *size)]
    height, width = part.least
    return [(1, height, width), (2, max(97, height), max(131, width)), (batch, *size)]


def open_file(path: str | Path, threads: int = 0) -> Callable[[Tensor], Sequence[Tensor]]:
    """A file as a function of a batch; ``threads`` is for ONNX Runtime, 0 for its default."""
    if Path(path).suffix != '.onnx':
        module = torch.export.load(path).module()

        def run_program(image: Tensor) -> Sequence[Tensor]:
            with torch.no_grad():
                return module(image)

        return run_program
    onnxruntime = _needed('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda image: [
        torch.from_numpy(np.asarray(out)) for out in session.run(None, {'image': image.numpy()})
    ]


def _difference(out: Tensor, exact: Tensor) -> float:
    if out.shape != exact.shape:
        return float('inf')
    if not exact.is_floating_point():
        return (out != exact).double().mean().item()
    largest = max(exact.abs().max().item(), 1.0)
    return ((out - exact).abs().max() / largest).item()

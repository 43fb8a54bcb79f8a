"""Speed of mmcv's operators and ours on a CPU: ``python benchmarks/mmcv_operators.py``.

All run through mmcv's own functions, whose compiled module is exchanged for ours, interleaved with
torchvision's operators if they load. Operators that mmcv only compiles for GPUs are compared with
the PyTorch code that mmdet or mmcv runs on a CPU. Missing operators have no row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import measure
import peers
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from torch import Tensor

from swin_backbone import mmcv_ext
from swin_backbone.mmcv_ext import torchvision_ops

Run = Callable[[], object]
OURS, COMPILED, TORCHVISION = 'ours', 'mmcv, compiled', 'torchvision'
PYTORCH = 'mmcv or mmdet, in PyTorch'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--out', type=Path, default=measure.OUT)
    parser.add_argument('--quick', action='store_true', help='small sizes and one round, as a test')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = 1 if options.quick else options.rounds
    rows = {}
    for name, runs in problems(8 if options.quick else 1).items():
        runs = {who: run for who, run in runs.items() if runs_here(run)}
        if OURS not in runs:
            continue
        taken = measure.interleaved(runs, rounds)
        for who, seconds in taken.items():
            rows[f'{name}: {who}'] = {
                'median, s': seconds['median'],
                'fastest': seconds['least'],
                'slowest': seconds['most'],
                'median / ours': seconds['median'] / taken[OURS]['median'],
            }
    title = "mmcv's operators on a CPU, float32"
    versions = peers.versions(['ours', 'mmdet', 'torchvision'])
    measure.write(options.out, 'mmcv_operators', title, rows, versions)


def problems(divisor: int) -> dict[str, dict[str, Run]]:
    """The implementations of each problem. Sizes are those of a detector over ``divisor``."""
    torchvision_ops.load()
    return {
        **_boxes(2000 // divisor),
        **_rotated(500 // divisor),
        **_regions(256 // divisor, 256 // divisor),
        **_focal(20000 // divisor),
        **_convolutions(256 // divisor, 64 // divisor),
        **_attention(4096 // divisor),
        **_others(64 // divisor),
    }


def _boxes(n: int) -> dict[str, dict[str, Run]]:
    corner = torch.rand(n, 2) * 800
    boxes, scores = torch.cat([corner, corner + torch.rand(n, 2) * 100], 1), torch.rand(n)
    nms = _both(lambda: ops.nms(boxes, scores, 0.5))
    nms[TORCHVISION] = lambda: torch.ops.torchvision.nms(boxes, scores, 0.5)
    return {
        f'nms, {n} boxes': nms,
        f'soft_nms, {n // 4} boxes': _both(lambda: ops.soft_nms(boxes[: n // 4], scores[: n // 4])),
        f'bbox_overlaps, {n} × {n}': _both(lambda: ops.bbox_overlaps(boxes, boxes)),
    }


def _rotated(n: int) -> dict[str, dict[str, Run]]:
    boxes = torch.cat([torch.rand(n, 2) * 800, torch.rand(n, 2) * 100 + 1, torch.rand(n, 1)], 1)
    scores = torch.rand(n)
    return {
        f'box_iou_rotated, {n} × {n}': _both(lambda: ops.box_iou_rotated(boxes, boxes)),
        f'nms_rotated, {n} boxes': _both(lambda: ops.nms_rotated(boxes, scores, 0.5)),
    }


def _regions(n: int, channels: int) -> dict[str, dict[str, Run]]:
    maps = torch.randn(2, channels, 100, 152, requires_grad=True)
    corner = torch.rand(n, 2) * 500
    rois = torch.cat([torch.arange(n)[:, None] % 2, corner, corner + torch.rand(n, 2) * 300], 1)
    turned = torch.cat([rois[:, :3] + 50, torch.rand(n, 2) * 200 + 1, torch.rand(n, 1)], 1)
    turned[:, 0] = rois[:, 0]
    theirs = torch.ops.torchvision
    functions: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor] | None]] = {
        'roi_align': (
            lambda: ops.roi_align(maps, rois, 7, 0.125),
            lambda: theirs.roi_align(maps, rois, 0.125, 7, 7, 0, True),
        ),
        'roi_pool': (
            lambda: ops.roi_pool(maps, rois, 7, 0.125),
            lambda: theirs.roi_pool(maps, rois, 0.125, 7, 7)[0],
        ),
        'roi_align_rotated': (lambda: ops.roi_align_rotated(maps, turned, 7, 0.125), None),
        'deform_roi_pool': (lambda: ops.deform_roi_pool(maps, rois, None, 7, 0.125), None),
    }
    tables = {}
    for name, (ours, other) in functions.items():
        for training in (False, True):
            runs = _both(partial(_step, ours, [maps], training))
            if other is not None:
                runs[TORCHVISION] = partial(_step, other, [maps], training)
            tables[_named(f'{name}, {n} regions, {channels} channels', training)] = runs
    return tables


def _focal(n: int) -> dict[str, dict[str, Run]]:
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
    from torch.nn.functional import one_hot

    logits = torch.randn(n, 80, requires_grad=True)
    target = torch.randint(0, 81, (n,))

    def in_pytorch() -> Tensor:
        classes = one_hot(target, num_classes=81)[:, :80]
        return py_sigmoid_focal_loss(logits, classes, gamma=2.0, alpha=0.25, reduction='none')

    tables = {}
    for training in (False, True):
        sigmoid = lambda: ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')  # noqa: E731
        runs = _both(partial(_step, sigmoid, [logits], training))
        runs[PYTORCH] = partial(_step, in_pytorch, [logits], training)
        tables[_named(f'sigmoid_focal_loss, {n} × 80', training)] = runs
    return tables


def _convolutions(channels: int, side: int) -> dict[str, dict[str, Run]]:
    images = torch.randn(2, channels, side, side, requires_grad=True)
    kernel = torch.randn(channels, channels, 3, 3, requires_grad=True)
    offset = torch.randn(2, 18, side, side, requires_grad=True)
    mask = torch.rand(2, 9, side, side, requires_grad=True)

    def theirs(mask: Tensor, masked: bool) -> Tensor:
        bias = images.new_zeros(channels)
        sizes = (1, 1, 1, 1, 1, 1, 1, 1)  # stride, padding, dilation, groups, groups of offsets
        convolve = torch.ops.torchvision.deform_conv2d
        return convolve(images, kernel, offset, mask, bias, *sizes, masked)

    functions = {
        'deform_conv2d': (
            [images, kernel, offset],
            lambda: ops.deform_conv2d(images, offset, kernel, 1, 1),
            lambda: theirs(images.new_zeros(2, 0), False),
        ),
        'modulated_deform_conv2d': (
            [images, kernel, offset, mask],
            lambda: ops.modulated_deform_conv2d(images, offset, mask, kernel, None, 1, 1),
            lambda: theirs(mask, True),
        ),
    }
    tables = {}
    for name, (inputs, ours, other) in functions.items():
        for training in (False, True):
            runs = _both(partial(_step, ours, inputs, training))
            runs[TORCHVISION] = partial(_step, other, inputs, training)
            title = f'{name}, 2 × {channels} × {side} × {side}'
            tables[_named(title, training)] = runs
    return tables


def _attention(queries: int) -> dict[str, dict[str, Run]]:
    shapes = torch.tensor([[64, 64], [32, 32], [16, 16], [8, 8]])
    sizes = shapes.prod(1)
    starts = sizes.cumsum(0) - sizes
    value = torch.randn(1, int(sizes.sum()), 8, 32, requires_grad=True)
    at = torch.rand(1, queries, 8, 4, 4, 2, requires_grad=True)
    attention = torch.rand(1, queries, 8, 4, 4, requires_grad=True)
    inputs = [value, at, attention]
    tables = {}
    for training in (False, True):
        ours = partial(
            MultiScaleDeformableAttnFunction.apply, value, shapes, starts, at, attention, 64
        )
        other = partial(multi_scale_deformable_attn_pytorch, value, shapes, at, attention)
        runs = _both(partial(_step, ours, inputs, training))
        runs[PYTORCH] = partial(_step, other, inputs, training)
        tables[_named(f'ms_deform_attn, {queries} queries', training)] = runs
    return tables


def _others(channels: int) -> dict[str, dict[str, Run]]:
    features = torch.randn(1, channels, 40, 40, requires_grad=True)
    masks = torch.rand(1, 25, 80, 80, requires_grad=True)
    spread = torch.randn(1, 19 * 19, 10, 10, requires_grad=True)
    tables = {}
    for training in (False, True):
        carafe = partial(ops.carafe, features, masks, 5, 1, 2)
        psa = partial(ops.PSAMask('collect', (19, 19)), spread)
        tables[_named(f'carafe, {channels} channels, 40 × 40', training)] = _both(
            partial(_step, carafe, [features, masks], training)
        )
        tables[_named('psa_mask, 19 × 19 of 10 × 10', training)] = _both(
            partial(_step, psa, [spread], training)
        )
    return tables


def _named(problem: str, training: bool) -> str:
    return f'{problem}, and backward' if training else problem


def _step(function: Callable[[], Tensor], inputs: list[Tensor], training: bool) -> None:
    """Runs the function, with the gradients of its inputs in training."""
    if not training:
        with torch.no_grad():
            function()
        return
    out = function()
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def _both(run: Run) -> dict[str, Run]:
    """Runs mmcv's functions on our operators, and on the compiled ones if available."""
    runs: dict[str, Run] = {OURS: partial(_on, mmcv_ext, run)}
    module = _compiled()
    if module is not None:
        runs[COMPILED] = partial(_on, module, run)
    return runs


def _on(operators: ModuleType, run: Run) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            module.ext_module = operators
    run()


def _compiled() -> ModuleType | None:
    """mmcv's compiled operators, from outside of the environment or from the installed mmcv."""
    name = 'mmcv_compiled._ext'
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec('mmcv')
    folders = [Path(sys.prefix, 'compiled', 'mmcv')]
    folders += map(Path, (spec and spec.submodule_search_locations) or ())
    for path in (folder / f'_ext{end}' for folder in folders for end in EXTENSION_SUFFIXES):
        if path.exists():
            loader = ExtensionFileLoader(name, str(path))
            found = spec_from_file_location(name, path, loader=loader)
            sys.modules[name] = module_from_spec(found)
            loader.exec_module(sys.modules[name])
            return sys.modules[name]
    return None


def runs_here(run: Run) -> bool:
    """Whether an operator exists and runs on a CPU."""
    try:
        run()
    except (AttributeError, NotImplementedError):
        return False
    except RuntimeError as error:
        if 'implementation for device cpu' in str(error):
            return False
        raise
    return True


if __name__ == '__main__':
    main()

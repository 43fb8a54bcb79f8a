"""Correctness and speed of a block and a patch merging on one GPU, kernel by kernel.

    python benchmarks/gpu_block.py [--out FOLDER] [--models T B L] [--tune]

Compares outputs and gradients of blocks, mergings and V2's paths with their definitions in float64.
Then times, at every stage of Swin-T/B/L for 8×3×800×1344 and 16×3×512×512, each kernel between the
matrix products, with its floor: the required memory traffic divided by the measured bandwidth of a
large copy. Also times a training step of a block, fused and as PyTorch's operators around the
attention kernels, with peak memory. Products are in bfloat16. Writes gpu_block.json and
gpu_block.md.

Only needs torch and triton. Without a GPU it only makes the checks, under Triton's interpreter.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu_attention as attention
import torch
from torch import Tensor

# gpu_attention makes these importable, even if the package's other dependencies are missing.
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.block import Options, Parameters
from swin_backbone.ops.block import reference as definition
from swin_backbone.ops.block import trial as block_trial
from swin_backbone.ops.block.triton import swin_block
from swin_backbone.ops.merging import trial as merging_trial
from swin_backbone.ops.post_norm import trial as post_norm_trial
from swin_backbone.ops.tokenwise import triton as tokenwise
from swin_backbone.ops.trial import TOLERANCE, Setting
from swin_backbone.ops.window_attention import shifted_window_attention

TRIALS = block_trial, merging_trial, post_norm_trial
DEVICE, HALF = attention.DEVICE, torch.bfloat16


def check() -> list[dict]:
    """Errors of blocks, mergings and V2's paths for every width; without a GPU for a narrow one."""
    widths = [96, 128, 192, 256, 384, 768, 1024, 1536] if attention.ON_GPU else [32]
    results = []
    for C, products in itertools.product(widths, TOLERANCE):
        for trial, sizes in zip(TRIALS, ((C // 32, 7, 4 * C), (), (4 * C,)), strict=True):
            autocast = None if products == torch.float32 else products
            error = trial.TRIAL.error(Setting(DEVICE, torch.float32, autocast), C, *sizes)
            results.append(dict(what=trial.__name__, width=C, dtype=str(products), error=error))
            print(results[-1], flush=True)
            assert error <= TOLERANCE[products], results[-1]
    return results


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def kernels(B: int, H: int, W: int, C: int) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Name, call and required memory traffic of each kernel on a map (B, H, W, C) with drop path.

    The map is float32, as in the first stage.
    """
    n = B * H * W * C
    x, grad = draw(B, H, W, C), draw(B, H, W, C)
    path, other = draw(B, H, W, C, dtype=HALF), draw(B, H, W, C, dtype=HALF)
    weight, bias, factors = draw(C), draw(C), draw(2, B)
    norm = weight, bias, 1e-5
    yield 'norm', lambda: tokenwise.add_norm(x, None, None, *norm, HALF), 6 * n
    yield 'residual and norm', lambda: tokenwise.add_norm(x, path, factors, *norm, HALF), 8 * n
    yield 'two residuals', lambda: tokenwise.add(x, path, other, factors), 12 * n
    yield (
        'back through residual and norm',
        lambda: tokenwise.norm_backward(other, grad, x, path, factors, *norm),
        20 * n,
    )
    yield 'back through a path', lambda: tokenwise.path_backward(grad, factors, HALF), 6 * n
    yield "V2's norm and residual", lambda: tokenwise.norm_add(x, path, factors[0], *norm), 10 * n
    yield (
        "back through V2's norm",
        lambda: tokenwise.norm_add_backward(grad, path, factors[0], weight, 1e-5),
        8 * n,
    )
    hidden, d_hidden = draw(B, H, W, 4 * C, dtype=HALF), draw(B, H, W, 4 * C, dtype=HALF)
    yield 'GELU', lambda: tokenwise.gelu(hidden, keep=True), 16 * n
    yield 'back through GELU', lambda: tokenwise.gelu_backward(hidden, d_hidden), 32 * n
    merged = (draw(4 * C), draw(4 * C)), (B, -(-H // 2), -(-W // 2), 4 * C)
    d_merged = draw(*merged[1], dtype=HALF)
    yield 'merging and norm', lambda: tokenwise.merge_norm(x, *merged[0], 1e-5, HALF), 6 * n
    yield (
        'back through merging and norm',
        lambda: tokenwise.merge_norm_backward(d_merged, x, *merged[0], 1e-5),
        12 * n,
    )


def steps(B: int, H: int, W: int, C: int, heads: int) -> dict[str, Callable[[], object]]:
    """A shifted block's training step under autocast, fused and unfused."""
    shapes = dict(norm1_weight=(C,), norm1_bias=(C,), qkv_weight=(3 * C, C), qkv_bias=(3 * C,))
    shapes |= dict(bias=(heads, 49, 49), proj_weight=(C, C), proj_bias=(C,), norm2_weight=(C,))
    shapes |= dict(norm2_bias=(C,), fc1_weight=(4 * C, C), fc1_bias=(4 * C,))
    shapes |= dict(fc2_weight=(C, 4 * C), fc2_bias=(C,))
    weights = {k: draw(*s).mul_(s[-1] ** -0.5).requires_grad_() for k, s in shapes.items()}
    p = Parameters(**weights)
    x, grad, factors = draw(B, H, W, C).requires_grad_(), draw(B, H, W, C), draw(2, B)
    options = Options(7, 3, 32**-0.5, 1e-5, 1e-5)

    def step(function: Callable[..., Tensor], **more: object) -> None:
        with torch.autocast(DEVICE.type, HALF):
            out = function(x, p, options, factors, **more)
        torch.autograd.grad(out, [x, *p], grad)

    attend = definition.shifted_window_attention

    def unfused() -> None:
        """The definition with the attention kernels."""
        definition.shifted_window_attention = shifted_window_attention
        try:
            with use_backend('triton'):
                step(definition.swin_block)
        finally:
            definition.shifted_window_attention = attend

    return {
        'fused': lambda: step(swin_block),
        'fused, recomputed': lambda: step(swin_block, recompute=True),
        'unfused': unfused,
    }


def measure(clock: attention.Clock, bandwidth: float, models: list[str]) -> list[dict]:
    """Times of every stage's kernels and training steps, with the peak memory of the steps."""
    results = []
    for stage in attention.stages([7]):
        if stage['model'] not in models:
            continue
        sizes = *stage['map'], stage['C']
        for name, call, moved in kernels(*sizes):
            taken = clock.interleaved({name: call})[name]
            floor = 1000 * moved / bandwidth
            results.append(stage | dict(what=name, floor_ms=floor) | taken)
            print(row(results[-1]), flush=True)
        calls = steps(*sizes, stage['heads'])
        for name, taken in clock.interleaved(calls).items():
            taken['peak_bytes'] = attention.peak_bytes(calls[name])
            results.append(stage | dict(what=f'block, {name}') | taken)
            print(row(results[-1]), flush=True)
    return results


def tune(clock: attention.Clock, models: list[str]) -> list[dict]:
    """Kernels' times with other tiles and numbers of programs than the default ones."""
    tile, programs, results = tokenwise.TILE, dict(tokenwise.PROGRAMS), []
    for stage, tokenwise.TILE, factor in itertools.product(
        attention.stages([7]), (1024, 2048, 4096, 8192), (0.5, 1, 2, 4)
    ):
        if stage['model'] not in models or stage['stage'] not in (1, 3):
            continue
        tokenwise.PROGRAMS = {k: max(1, round(factor * v)) for k, v in programs.items()}
        for name, call, _ in kernels(*stage['map'], stage['C']):
            taken = clock.interleaved({name: call}, rounds=5)[name]
            layout = dict(what=name, tile=tokenwise.TILE, programs=factor)
            results.append(stage | layout | taken)
    tokenwise.TILE, tokenwise.PROGRAMS = tile, programs
    return results


HEADER = ('Model', 'Images', 'Stage', 'What', 'ms', 'Floor, ms', 'Of the floor', 'Peak, MiB')


def row(result: dict) -> str:
    """A table row."""
    floor, peak = result.get('floor_ms'), result.get('peak_bytes')
    cells = [
        result['model'],
        '×'.join(map(str, result['image'])),
        result['stage'],
        result['what'],
        f'{result["median"]:.3f} ± {(result["most"] - result["least"]) / 2:.3f}',
        '' if floor is None else f'{floor:.3f}',
        '' if floor is None else f'{floor / result["median"]:.0%}',
        '' if peak is None else f'{peak / 2**20:.0f}',
    ]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def markdown(report: dict) -> str:
    """The report as Markdown."""
    facts = ', '.join(f'{key} {value}' for key, value in report['machine'].items())
    lines = [
        '# A block and a patch merging',
        '',
        f'Measured on {facts}.',
        '',
        f'{len(report["checks"])} checks against float64 passed.',
    ]
    if 'rows' in report:
        lines += [
            f'A large copy reaches {report["bandwidth"] / 1e12:.2f} TB/s. Medians in milliseconds '
            'from a cold cache; maps in float32, products in bfloat16.',
            '',
            '| ' + ' | '.join(HEADER) + ' |',
            '|' + ' --- |' * len(HEADER),
            *map(row, report['rows']),
        ]
    else:
        lines.append('Nothing was timed: there is no GPU.')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_block'))
    parser.add_argument('--models', nargs='+', default=list(attention.MODELS))
    parser.add_argument('--tune', action='store_true', help='also try other tunings of the kernels')
    options = parser.parse_args()
    torch.manual_seed(0)
    report = dict(machine=attention.machine(), checks=check())
    if attention.ON_GPU:
        clock = attention.Clock()
        report['bandwidth'] = attention.copy_bandwidth(clock)
        report['rows'] = measure(clock, report['bandwidth'], options.models)
        if options.tune:
            report['tuning'] = tune(clock, options.models)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'gpu_block.json').write_text(json.dumps(report, indent=1))
    (options.out / 'gpu_block.md').write_text(markdown(report))
    print(f'Written to {options.out}')


if __name__ == '__main__':
    main()

"""Correctness and speed of shifted-window attention on one GPU, compared with its memory floor.

    python benchmarks/gpu_attention.py [--out FOLDER] [--windows 7 12] [--tune]

Compares the Triton kernels with the reference in float64. Then times them, interleaved with the
reference and with PyTorch's fused attention on partitioned windows, at every stage of Swin-T/B/L
for 8×3×800×1344 and 16×3×512×512 in bfloat16, forward and forward with backward. The floor is the
required memory traffic (see ops/window_attention/triton.py) divided by the measured bandwidth of a
large copy. Writes gpu_attention.json and gpu_attention.md.

Only needs torch and triton. Without a GPU it only makes the checks, on small maps under Triton's
interpreter.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import itertools
import json
import os
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device('cuda' if ON_GPU else 'cpu')
if not ON_GPU:
    os.environ['TRITON_INTERPRET'] = '1'

ROOT = Path(__file__).resolve().parents[1]
# Width and heads of the first stage; both double with each stage.
MODELS = {'T': (96, 3), 'B': (128, 4), 'L': (192, 6)}
IMAGES = [(8, 800, 1344), (16, 512, 512)]
# Largest error, relative to the largest element or 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def load_ops() -> tuple[types.ModuleType, types.ModuleType]:
    """The reference and the kernels, even if the package's other dependencies are missing."""
    sys.path.insert(0, str(ROOT))
    try:
        importlib.import_module('swin_backbone')
    except ImportError:
        package = types.ModuleType('swin_backbone')
        package.__path__ = [str(ROOT / 'swin_backbone')]
        sys.modules['swin_backbone'] = package
    ops = 'swin_backbone.ops.window_attention'
    return importlib.import_module(f'{ops}.reference'), importlib.import_module(f'{ops}.triton')


reference, kernels = load_ops()


def sdpa_on_windows(
    qkv: Tensor,
    bias: Tensor,
    *,
    window_size: int,
    shift_size: int,
    padding: Tensor,
) -> Tensor:
    """The op with PyTorch's attention: pad, roll, partition, attention, and back."""
    B, H, W, _ = qkv.shape
    heads = len(bias)
    qkv = reference.pad_to_windows(qkv, window_size, padding)
    Hp, Wp = qkv.shape[1:3]
    if shift_size:
        qkv = qkv.roll((-shift_size, -shift_size), (1, 2))
    windows = reference.window_partition(qkv, window_size)
    q, k, v = windows.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mask = bias.to(q.dtype)[None]
    if shift_size:
        apart = reference.shift_mask(Hp, Wp, window_size, shift_size, mask)
        mask = (mask + apart[:, None]).repeat(B, 1, 1, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out = out.transpose(1, 2).flatten(-2)
    out = reference.window_reverse(out, window_size, (B, Hp, Wp))
    if shift_size:
        out = out.roll((shift_size, shift_size), (1, 2))
    return out[:, :H, :W]


BACKENDS: dict[str, Callable] = {
    'reference': reference.shifted_window_attention,
    'sdpa on windows': sdpa_on_windows,
    'triton': kernels.shifted_window_attention,
}


def draw(
    B: int, H: int, W: int, C: int, heads: int, window: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Random qkv, bias, padding, and gradient of the output."""
    tokens = window**2
    qkv = torch.randn(B, H, W, 3 * C, device=DEVICE).to(dtype).requires_grad_()
    bias = torch.randn(heads, tokens, tokens, device=DEVICE, requires_grad=True)
    padding = torch.randn(3 * C, device=DEVICE, requires_grad=True)
    return qkv, bias, padding, torch.randn(B, H, W, C, device=DEVICE).to(dtype)


def forward(backend: Callable, tensors: tuple[Tensor, ...], **options) -> Tensor:
    """The output, without autograd."""
    qkv, bias, padding, _ = tensors
    with torch.no_grad():
        return backend(qkv, bias, padding=padding, **options)


def step(backend: Callable, tensors: tuple[Tensor, ...], **options) -> list[Tensor]:
    """Output and gradients."""
    qkv, bias, padding, grad = tensors
    out = backend(qkv, bias, padding=padding, **options)
    gradients = torch.autograd.grad(out, (qkv, bias, padding), grad, materialize_grads=True)
    return [out.detach(), *gradients]


def check() -> list[dict]:
    """Errors relative to the reference in float64; raises if one is too large."""
    maps = [(2, 100, 67, 96, 3), (2, 28, 42, 384, 12), (1, 5, 3, 64, 1)]
    windows = (7, 8, 12, 16)
    if not ON_GPU:
        maps, windows = [(1, 9, 8, 32, 2), (1, 5, 3, 64, 1)], (7, 12)
    results = []
    for (*size, heads), window, dtype in itertools.product(maps, windows, TOLERANCE):
        tensors = draw(*size, heads, window, dtype)
        exact = tuple(x.detach().double().requires_grad_() for x in tensors)
        options = dict(window_size=window, shift_size=window // 2)
        theirs = step(reference.shifted_window_attention, exact, **options)
        # PyTorch's attention rounds the bias to the dtype of the scores: only checked in float32.
        for name in ('triton', 'sdpa on windows') if dtype == torch.float32 else ('triton',):
            ours = step(BACKENDS[name], tensors, **options)
            errors = {
                of: ((a.double() - b).abs().max() / b.abs().max().clamp(min=1)).item()
                for of, a, b in zip(('out', 'qkv', 'bias', 'padding'), ours, theirs, strict=True)
            }
            row = dict(backend=name, map=size, heads=heads, window=window, dtype=str(dtype))
            results.append(row | dict(errors=errors))
            assert max(errors.values()) <= TOLERANCE[dtype], results[-1]
    return results


class Clock:
    """Interleaved timing of functions in milliseconds, each with a cold cache."""

    def __init__(self) -> None:
        # Larger than any GPU's L2 cache; writing it also hides the latency of the launch.
        self.flush = torch.empty(2**28, dtype=torch.int8, device=DEVICE)

    def once(self, function: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def interleaved(
        self, functions: dict[str, Callable[[], object]], rounds: int = 15
    ) -> dict[str, dict]:
        for function in functions.values():
            for _ in range(3):
                function()
        times = {name: [] for name in functions}
        for _ in range(rounds):
            for name, function in functions.items():
                times[name].append(self.once(function))
        return {
            name: dict(median=statistics.median(t), least=min(t), most=max(t), rounds=rounds)
            for name, t in times.items()
        }


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak of the allocated memory above that before the call."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(clock: Clock) -> float:
    """Bytes per second, read and written, of a large copy."""
    a, b = (torch.empty(2**30, dtype=torch.int8, device=DEVICE) for _ in range(2))
    return 2 * a.numel() / (min(clock.once(lambda: b.copy_(a)) for _ in range(10)) / 1000)


def floor_bytes(tensors: tuple[Tensor, ...], backward: bool) -> int:
    """The least memory traffic: each input read once, each result written once."""
    qkv, bias, padding, grad = tensors
    inputs = sum(x.nbytes for x in (qkv, bias, padding))
    forward = inputs + grad.nbytes
    return forward + (2 * inputs + grad.nbytes if backward else 0)


def stages(windows: list[int]) -> list[dict]:
    """Every stage of every model, image size and window."""
    return [
        dict(model=model, image=[B, H, W], stage=stage + 1, window=window)
        | dict(map=[B, H // 4 >> stage, W // 4 >> stage], C=C << stage, heads=heads << stage)
        for window, (B, H, W), (model, (C, heads)), stage in itertools.product(
            windows, IMAGES, MODELS.items(), range(4)
        )
    ]


def measure(clock: Clock, bandwidth: float, windows: list[int]) -> list[dict]:
    """Times, peak memory and floor of each stage's shifted block."""
    rows = []
    for stage, (run, backward) in itertools.product(
        stages(windows), (('forward', False), ('forward and backward', True))
    ):
        tensors, options = problem(stage)
        calls = {
            name: functools.partial(step if backward else forward, backend, tensors, **options)
            for name, backend in BACKENDS.items()
        }
        times = clock.interleaved(calls)
        for name, call in calls.items():
            times[name]['peak_bytes'] = peak_bytes(call)
        floor = floor_bytes(tensors, backward)
        floors = dict(floor_bytes=floor, floor_ms=1000 * floor / bandwidth)
        rows.append(stage | dict(run=run) | floors | dict(times=times))
        print(table_row(rows[-1]), flush=True)
    return rows


def problem(stage: dict) -> tuple[tuple[Tensor, ...], dict]:
    """Tensors and options of a stage's shifted block, in bfloat16."""
    window = stage['window']
    tensors = draw(*stage['map'], stage['C'], stage['heads'], window, torch.bfloat16)
    return tensors, dict(window_size=window, shift_size=window // 2)


def tune(clock: Clock, windows: list[int]) -> list[dict]:
    """The fastest five of many tunings of the kernels, for Swin-T's first and third stage."""
    layouts = [
        kernels.Tuning(*layout)
        for layout in itertools.product((4, 8, 16, 64), (4, 8), (1, 2, 3), (None, 128, 168))
    ]
    rows = []
    for stage in stages(windows):
        if stage['model'] != 'T' or stage['stage'] not in (1, 3):
            continue
        tensors, options = problem(stage)
        qkv, bias, padding, grad = (x.detach() for x in tensors)
        inputs = (qkv, bias, padding, None)
        results = kernels.forward_kernel(*inputs, **options)
        for run, call in (
            ('forward', functools.partial(kernels.forward_kernel, *inputs, **options)),
            (
                'backward',
                functools.partial(kernels.backward_kernel, grad, *inputs, *results, **options),
            ),
        ):
            calls = {layout: functools.partial(call, tuning=layout) for layout in layouts}
            times = clock.interleaved(calls, rounds=5)
            best = sorted(layouts, key=lambda layout: times[layout]['median'])[:5]
            best = [layout._asdict() | times[layout] for layout in best]
            rows.append(stage | dict(run=run, best=best))
            print(rows[-1], flush=True)
    return rows


def machine() -> dict:
    """Device, versions and date."""
    return dict(
        device=torch.cuda.get_device_name() if ON_GPU else 'CPU, Triton interpreted',
        torch=torch.__version__,
        triton=importlib.import_module('triton').__version__,
        date=datetime.date.today().isoformat(),
    )


HEADER = [
    *('Model', 'Images', 'Stage', 'Window', 'Run', 'Floor, ms', *BACKENDS),
    *('Of the floor', *(f'{name}, MiB' for name in BACKENDS)),
]


def table_row(row: dict) -> str:
    """A table row: medians with half their spread, floor / median, peak memory."""
    times = row['times']
    cells = [
        row['model'],
        '×'.join(map(str, row['image'])),
        row['stage'],
        row['window'],
        row['run'],
        f'{row["floor_ms"]:.3f}',
        *(f'{t["median"]:.3f} ± {(t["most"] - t["least"]) / 2:.3f}' for t in times.values()),
        f'{row["floor_ms"] / times["triton"]["median"]:.0%}',
        *(f'{t["peak_bytes"] / 2**20:.0f}' for t in times.values()),
    ]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def markdown(report: dict) -> str:
    """The report as Markdown."""
    facts = ', '.join(f'{key} {value}' for key, value in report['machine'].items())
    worst = max(max(row['errors'].values()) for row in report['checks'])
    lines = [
        '# Shifted-window attention',
        '',
        f'Measured on {facts}.',
        '',
        f'{len(report["checks"])} checks against float64 passed; the largest error is {worst:.1e} '
        'of the largest element.',
    ]
    if 'rows' in report:
        lines += [
            f'A large copy reaches {report["bandwidth"] / 1e12:.2f} TB/s. Medians in milliseconds, '
            'interleaved, from a cold cache, bfloat16; peak memory above the inputs.',
            '',
            '| ' + ' | '.join(HEADER) + ' |',
            '|' + ' --- |' * len(HEADER),
            *map(table_row, report['rows']),
        ]
    else:
        lines.append('Nothing was timed: there is no GPU.')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_attention'))
    parser.add_argument('--windows', type=int, nargs='+', default=[7, 12])
    parser.add_argument('--tune', action='store_true', help='also try other tunings of the kernels')
    arguments = parser.parse_args()
    torch.manual_seed(0)
    report = dict(machine=machine(), checks=check())
    print(f'{len(report["checks"])} checks passed', flush=True)
    if ON_GPU:
        clock = Clock()
        report['bandwidth'] = copy_bandwidth(clock)
        report['rows'] = measure(clock, report['bandwidth'], arguments.windows)
        if arguments.tune:
            report['tuning'] = tune(clock, arguments.windows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'gpu_attention.json').write_text(json.dumps(report, indent=1))
    (arguments.out / 'gpu_attention.md').write_text(markdown(report))
    print(f'Written to {arguments.out}')


if __name__ == '__main__':
    main()

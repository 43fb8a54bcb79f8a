"""Correctness and speed of the whole backbone on one GPU, compared with its peers and its floor.

    python benchmarks/gpu_backbone.py [--out FOLDER] [--models tiny] [--peers ours mmdet] [--eager]
    python benchmarks/gpu_backbone.py --device cpu --tiny    # a test of this program, without a GPU

Compares outputs and gradients of each backend with the reference, for Swin-T in float32 and under
bfloat16 autocast. Then times training steps (forward and backward pass) and inference under
bfloat16 autocast, eager and compiled, interleaved, and measures peak memory. Variants that cannot
be imported, compiled or held in memory are listed as such. Writes gpu_backbone.json, .md and .png
after every case, so that an interrupted run keeps its results.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
import peers
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TRAINING = [(8, 3, 800, 1344), (16, 3, 512, 512)]
INFERENCE = [(1, 3, 800, 1344), (16, 3, 800, 1344)]
CHECKED, TINY = (2, 3, 230, 309), (1, 3, 40, 64)
# Relative errors of norms. In bfloat16 a backend's error may be this multiple of the reference's
# error in bfloat16; both are relative to float32.
FLOAT32_ERROR, BFLOAT16_FACTOR = 1e-4, 2


# --- correctness ----------------------------------------------------------------------------------


def check(device: str, shape: tuple[int, ...]) -> list[dict]:
    """Errors of each fast backend, and the allowed errors."""
    from swin_backbone import SwinTransformer

    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = SwinTransformer(arch='tiny', drop_path_rate=0.0).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = torch.randn(shape, device=device)
    exact = outputs_and_gradients(model, x, 'reference', halves=False)
    rough = errors(outputs_and_gradients(model, x, 'reference', halves=True), exact)
    rows = []
    for backend in ('sdpa', 'triton' if device == 'cuda' else 'cpu'):
        for halves in (False, True):
            found = errors(outputs_and_gradients(model, x, backend, halves), exact)
            allowed = {k: BFLOAT16_FACTOR * rough[k] if halves else FLOAT32_ERROR for k in found}
            passed = all(found[k] <= allowed[k] for k in found)
            row = dict(backend=backend, dtype='bfloat16' if halves else 'float32', passed=passed)
            rows.append(row | dict(errors=found, allowed=allowed))
            print(rows[-1], flush=True)
    return rows


def outputs_and_gradients(
    model: nn.Module, x: Tensor, backend: str, halves: bool
) -> dict[str, list[Tensor]]:
    """Outputs, and gradients of the image and all parameters for a fixed loss."""
    from swin_backbone.ops.backends import use_backend

    x = x.clone().requires_grad_()
    with use_backend(backend), torch.autocast(x.device.type, torch.bfloat16, enabled=halves):
        outs = model(x)
    generator = torch.Generator(x.device).manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator, device=x.device) for o in outs]
    loss = sum((o.float() * w).mean() for o, w in zip(outs, weights, strict=True))
    gradients = torch.autograd.grad(loss, [x, *model.parameters()])
    return {'outputs': [o.detach() for o in outs], 'gradients': list(gradients)}


def errors(found: dict[str, list[Tensor]], exact: dict[str, list[Tensor]]) -> dict[str, float]:
    """The largest error of each kind, relative to the exact tensor's norm."""
    return {
        kind: max(
            ((a.float() - b).norm() / b.norm().clamp(min=1e-12)).item()
            for a, b in zip(found[kind], exact[kind], strict=True)
        )
        for kind in exact
    }


# --- speed ---------------------------------------------------------------------------------------


def variants(options: argparse.Namespace, arch: str, training: bool) -> Iterator[tuple]:
    """Names of the variants, and functions that build their models."""
    for peer in options.present:
        build = functools.partial(peers.build, peer, arch)
        yield peer, build
        if not options.eager:
            yield f'{peer}, compiled', lambda build=build: torch.compile(build())
    if 'ours' in options.present and not options.eager and not training:
        graphs = functools.partial(torch.compile, mode='reduce-overhead')
        yield 'ours, CUDA graphs', lambda: graphs(peers.build('ours', arch))


def case(options: argparse.Namespace, arch: str, shape: tuple[int, ...], training: bool) -> dict:
    """Times and peak memory of all variants, and the errors of those that failed."""
    torch._dynamo.reset()
    x = torch.randn(shape, device=options.device)
    task = peers.training_step if training else peers.forward
    functions, peaks, failures = {}, {}, {}
    for name, build in variants(options, arch, training):
        try:
            model = build().to(options.device)
            function = under_autocast(task(model, x), options.device)
            function(), function()  # compiles and fills caches
            # CUDA graphs allocate their memory at capture and keep it.
            peaks[name] = None if 'graphs' in name else peak_bytes(function, model)
            functions[name] = function
        except Exception as error:  # reported, whatever a peer or a compiler raises
            failures[name] = f'{type(error).__name__}: {error}'[:300]
            print(name, failures[name], flush=True)
        if options.device == 'cuda':
            torch.cuda.empty_cache()
    seconds = measure.interleaved(functions, options.rounds)
    floor = options.floor(arch, shape, training)
    kind = 'forward and backward pass' if training else 'inference'
    title = f'Swin-{arch[0].upper()}, {kind}, {"×".join(map(str, shape))}, bfloat16 autocast'
    rows = table(seconds, peaks, floor.get('floor, s'))
    return dict(title=title, rows=rows, facts=floor, failures=failures)


def under_autocast(function: Callable[[], None], device: str) -> Callable[[], None]:
    """The function under bfloat16 autocast."""

    def run() -> None:
        with torch.autocast(device, torch.bfloat16):
            function()

    return run


def peak_bytes(function: Callable[[], None], model: nn.Module) -> int | None:
    """Peak of the allocated memory above that of the models; None on a CPU."""
    if not next(model.parameters()).is_cuda:
        return None
    model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    model.zero_grad(set_to_none=True)
    return peak


def table(
    seconds: dict[str, dict[str, float]], peaks: dict[str, int | None], floor: float | None
) -> dict[str, dict[str, float]]:
    """One row per variant, with the available columns."""
    rows = {}
    for name, taken in seconds.items():
        row = {'median, s': taken['median'], 'fastest': taken['least'], 'slowest': taken['most']}
        if floor is not None:
            row['floor / median'] = floor / taken['median']
        if 'mmdet' in seconds:
            row['mmdet eager / this'] = seconds['mmdet']['median'] / taken['median']
        if peaks[name] is not None:
            row['peak, MB'] = peaks[name] / 1e6
            if peaks.get('mmdet'):
                row['this / mmdet eager, memory'] = peaks[name] / peaks['mmdet']
        rows[name] = row
    return rows


# --- the report ----------------------------------------------------------------------------------


def write(out: Path, report: dict) -> None:
    """JSON, Markdown and a chart."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'gpu_backbone.json').write_text(json.dumps(report, indent=1) + '\n')
    (out / 'gpu_backbone.md').write_text('\n'.join(markdown(report)) + '\n')
    timed = [c for c in report['cases'] if c['rows']]
    charts = {c['title']: (c['rows'], c['facts'].get('floor, s')) for c in timed}
    if charts:
        measure.chart(out / 'gpu_backbone.png', charts)


def markdown(report: dict) -> Iterator[str]:
    """The report for people."""
    listed = ', '.join(f'{k} {v}' for k, v in report['versions'].items())
    yield f'**The backbone on {report["machine"]}.** {report["date"]}; {listed}.'
    for name, why in report['missing'].items():
        yield f'\nLeft out: {name} ({why}).'
    for row in report['checks']:
        verdict = 'agrees with' if row['passed'] else '**DISAGREES** with'
        allowed = row['allowed']
        found = ', '.join(f'{k} {v:.1e} (≤ {allowed[k]:.1e})' for k, v in row['errors'].items())
        yield f'\n{row["backend"]} in {row["dtype"]} {verdict} the reference: {found}.'
    for one in report['cases']:
        yield f'\n## {one["title"]}\n'
        if one['rows']:
            yield from measure.table(one['rows'])
        yield ''
        for fact, value in one['facts'].items():
            yield f'- {fact}: {value:.4g}'
        for name, why in one['failures'].items():
            yield f'- {name} failed: {why.splitlines()[0]}'


def present(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The available peers, and the reasons why others are not."""
    found, missing = [], {}
    for name in (n for n in peers.PACKAGES if n in names):
        try:
            peers.build(name, 'tiny')
            found.append(name)
        except (ImportError, AssertionError) as error:  # mmdet asserts the version of mmcv
            missing[name] = f'{type(error).__name__}: {error}'.splitlines()[0]
    return found, missing


def limits(device: str, peak: float | None) -> Callable[..., dict[str, float]]:
    """A function that returns a case's floor; empty if this package cannot be imported."""
    try:
        import floors
    except ImportError:
        return lambda *case: {}
    measured = measure.matmul_peak(device, torch.bfloat16, 8192 if device == 'cuda' else 512)
    bandwidth = measure.bandwidth(device, 2**30 if device == 'cuda' else 2**24)
    peak = peak or measured

    def facts(arch: str, shape: tuple[int, ...], training: bool) -> dict[str, float]:
        floor = floors.floor(arch, shape, training, element_size=2)
        return {
            'TFLOP': floor.flops / 1e12,
            'GB to move': floor.bytes / 1e9,
            'TFLOP/s of a matrix product here': measured / 1e12,
            'TFLOP/s that the floor assumes': peak / 1e12,
            'TB/s of a copy here': bandwidth / 1e12,
            'floor, s': floor.seconds(peak, bandwidth),
        }

    return facts


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=measure.OUT)
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--models', nargs='+', default=list(peers.WIDTHS), choices=peers.WIDTHS)
    parser.add_argument('--peers', nargs='+', default=list(peers.PACKAGES), choices=peers.PACKAGES)
    parser.add_argument('--only', choices=['training', 'inference', 'checks'])
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--eager', action='store_true', help='do not compile')
    parser.add_argument('--peak', type=float, help="the floor's TFLOP/s; 790 on a GPU")
    parser.add_argument('--tiny', action='store_true', help='one small image for all cases')
    options = parser.parse_args()
    if options.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU; --device cpu --tiny runs the same code without one')
    if options.peak is None and options.device == 'cuda':
        options.peak = 790
    return options


def main() -> None:
    options = parsed()
    options.present, missing = present(options.peers)
    for name, why in missing.items():
        print(f'{name} is left out: {why}', flush=True)
    options.floor = limits(options.device, options.peak and options.peak * 1e12)
    report = dict(machine=measure.machine(), date=datetime.date.today().isoformat())
    report |= dict(versions=peers.versions(options.present), missing=missing, checks=[], cases=[])
    if 'ours' in options.present:
        report['checks'] = check(options.device, TINY if options.tiny else CHECKED)
    write(options.out, report)
    runs = {'training': TRAINING, 'inference': INFERENCE}
    for arch, (kind, shapes) in itertools.product(options.models, runs.items()):
        if options.only not in (None, kind):
            continue
        for shape in [TINY] if options.tiny else shapes:
            report['cases'].append(case(options, arch, shape, kind == 'training'))
            write(options.out, report)
    print((options.out / 'gpu_backbone.md').read_text())
    if not all(row['passed'] for row in report['checks']):
        sys.exit('A backend disagrees with the reference.')


if __name__ == '__main__':
    main()

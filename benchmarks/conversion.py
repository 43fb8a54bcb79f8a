"""Time and peak memory of converting Swin-L, as Markdown: ``python benchmarks/conversion.py``.

Every conversion runs in its own process. Its memory is the peak of resident memory above that after
all imports, relative to the size of the source file. Weights are random.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from swin_backbone import SwinTransformer
from swin_backbone.weights import convert, convert_file

CONVERSIONS = [
    ('microsoft', 'openmmlab', 'pth'),
    ('microsoft', 'timm', 'safetensors'),
    ('microsoft', 'torchvision', 'pth'),
    ('microsoft', 'transformers', 'safetensors'),
    ('transformers', 'openmmlab', 'pth'),
    ('timm', 'microsoft', 'pth'),
    ('mmpretrain', 'transformers', 'pth'),
    ('detectron2', 'openmmlab', 'safetensors'),
]


def write_source(path: str, layout: str) -> None:
    """Writes Swin-L as a classifier of 1000 classes."""
    weights = SwinTransformer(arch='large', out_indices=(3,)).state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.normal_()
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.randn(1000, 1536), torch.randn(1000)
    classifier = {k if k.startswith('head.') else f'backbone.{k}': v for k, v in weights.items()}
    torch.save(convert(classifier, layout), path)


def measure(src: str, dst: str, to: str) -> None:
    """Converts a file and prints time and memory; runs in its own process."""
    before = resident()
    start = time.perf_counter()
    convert_file(src, dst, to)
    seconds = time.perf_counter() - start
    print(json.dumps({'seconds': seconds, 'bytes': resident() - before}))


def resident() -> int:
    """The peak of this process's resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(*arguments: str | Path) -> str:
    """Runs this file in another process, so as to measure only its memory; returns its output."""
    command = [sys.executable, '-W', 'ignore', __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    print('| from (`.pth`) | size | to | seconds | peak memory | of the size |')
    print('|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for source, to, ending in CONVERSIONS:
            src, dst = Path(folder) / f'{source}.pth', Path(folder) / f'out.{ending}'
            if not src.exists():
                run('write', src, source)
            took = json.loads(run('measure', src, dst, to).splitlines()[-1])
            size = src.stat().st_size
            print(
                f'| {source} | {size / 2**20:.0f} MiB | {to} (`.{ending}`) | {took["seconds"]:.1f} '
                f'| {took["bytes"] / 2**20:.0f} MiB | {took["bytes"] / size:.2f} × |',
                flush=True,
            )


if __name__ == '__main__':
    task, *arguments = sys.argv[1:] or ['main']
    {'main': main, 'write': write_source, 'measure': measure}[task](*arguments)

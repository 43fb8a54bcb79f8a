"""Time and peak memory of converting Swin-L, as Markdown: ``python benchmarks/conversion.py``.

Every conversion is a process of its own. Its memory is the resident peak above what it has once all
is imported, over the size of the file that it reads. Weights are drawn at random.
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


def write_source(path: Path, layout: str) -> None:
    """Swin-L as a classifier of 1000 classes."""
    weights = SwinTransformer(arch='large', out_indices=(3,)).state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.normal_()
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.randn(1000, 1536), torch.randn(1000)
    classifier = {k if k.startswith('head.') else f'backbone.{k}': v for k, v in weights.items()}
    torch.save(convert(classifier, layout), path)


def measure(src: str, dst: str, to: str) -> None:
    """Converts, in a process of its own, and prints what it took."""
    before = resident()
    start = time.perf_counter()
    convert_file(src, dst, to)
    seconds = time.perf_counter() - start
    print(json.dumps({'seconds': seconds, 'bytes': resident() - before}))


def resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    print('| from | to | file | seconds | peak memory | of the file |')
    print('|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for source, to, ending in CONVERSIONS:
            src, dst = Path(folder) / f'{source}.pth', Path(folder) / f'out.{ending}'
            if not src.exists():
                write_source(src, source)
            command = [sys.executable, '-W', 'ignore', __file__, str(src), str(dst), to]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            took = json.loads(done.stdout.splitlines()[-1])
            size = src.stat().st_size
            print(
                f'| {source} | {to} | `.{ending}`, {size / 2**20:.0f} MiB | {took["seconds"]:.1f} '
                f'| {took["bytes"] / 2**20:.0f} MiB | {took["bytes"] / size:.2f} × |',
                flush=True,
            )


if __name__ == '__main__':
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()

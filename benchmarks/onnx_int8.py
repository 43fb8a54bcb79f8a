"""mIoU, file size and speed of a segmentor with dynamic int8 quantization.

    python benchmarks/onnx_int8.py CONFIG CHECKPOINT

Tests PyTorch, the ONNX file and its int8 version on the config's test data, with batches of one
image on one thread. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from swin_backbone.tools.export import export, load_part
from swin_backbone.tools.export.check import open_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    options = parser.parse_args()
    torch.set_num_threads(1)

    part = load_part(options.config, options.checkpoint, 'model')
    images, truth = load_data(options.config, part.model.data_preprocessor)
    classes = part.model.decode_head.num_classes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        exported = export(part, path, size=tuple(images[0].shape[2:]), int8=True)
        ways = {
            'PyTorch': (part, Path(options.checkpoint)),
            'ONNX, float32': (open_file(path, threads=1), path),
            'ONNX, int8': (open_file(exported.quantised, threads=1), exported.quantised),
        }
        print('| | mIoU | size | ms an image |\n|---|---|---|---|')
        for name, (call, file) in ways.items():
            score, seconds = test(call, images, truth, classes)
            size = '' if name == 'PyTorch' else f'{file.stat().st_size / 2**20:.1f} MiB'
            print(f'| {name} | {score:.4f} | {size} | {1000 * seconds:.1f} |', flush=True)


def load_data(config: str, preprocessor: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The normalized test images, (1, 3, H, W) each, and their classes, (H, W)."""
    settings = Config.fromfile(config).test_dataloader
    settings.batch_size = 1
    images, truth = [], []
    for batch in Runner.build_dataloader(settings, seed=0):
        done = preprocessor(batch, training=False)
        images.append(done['inputs'])
        truth.append(done['data_samples'][0].gt_sem_seg.data[0])
    return images, truth


def test(
    call: Callable[[Tensor], Sequence[Tensor]],
    images: list[Tensor],
    truth: list[Tensor],
    classes: int,
) -> tuple[float, float]:
    """Mean intersection over union, and the median seconds per image."""
    counts, seconds = torch.zeros(classes, classes), []
    with torch.no_grad():
        for image, right in zip(images, truth, strict=True):
            start = time.perf_counter()
            (logits,) = call(image)
            seconds.append(time.perf_counter() - start)
            counted = right < classes  # 255 is no class
            pairs = right[counted] * classes + logits[0].argmax(0)[counted]
            counts += torch.bincount(pairs.long(), minlength=classes**2).view(classes, classes)
    both = counts.diag()
    return (both / (counts.sum(0) + counts.sum(1) - both)).mean().item(), statistics.median(seconds)


if __name__ == '__main__':
    main()

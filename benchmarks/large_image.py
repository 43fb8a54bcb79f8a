"""Time, memory and correctness of a forward pass over a huge image.

    python benchmarks/large_image.py --side 8000

The image is noise. The features of its upper left corner are compared with those of a crop, which
exceeds the corner by more than the receptive field.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import measure
import torch

import swin_backbone

# Sides in pixels of the corner and of the crop: multiples of 7 tokens of the last stage.
CORNER, CROP = 7 * 32 * 2, 7 * 32 * 9


def main() -> None:
    """Prints seconds, peaks in GiB, and the largest relative difference of each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=8000)
    parser.add_argument('--version', choices=('SwinTransformer', 'SwinTransformerV2'),
                        default='SwinTransformer')  # fmt: skip
    given = parser.parse_args()
    torch.manual_seed(0)
    model = getattr(swin_backbone, given.version)(arch='tiny').eval()
    image = torch.randn(1, 3, given.side, given.side)
    with torch.inference_mode():
        crop = model(image[..., :CROP, :CROP])
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak
        before = measure.status('VmRSS')
        start, used = time.perf_counter(), time.process_time()
        out = model(image)
        start, used = time.perf_counter() - start, time.process_time() - used
    kept = sum(stage.nbytes for stage in out)
    peak = measure.status('VmHWM')
    print(f'{measure.machine()}; {given.version} tiny, {given.side} × {given.side}, float32')
    print(f'{start:.0f} s, {used:.0f} s of processor time')
    gib = ', '.join(f'{name} {n / 2**30:.2f}' for name, n in
                    dict(peak=peak, before=before, outputs=kept).items())  # fmt: skip
    print(f'GiB: {gib}')
    for i, (whole, part) in enumerate(zip(out, crop, strict=True)):
        side = CORNER >> (2 + i)
        whole, part = whole[..., :side, :side], part[..., :side, :side]
        print(f'stage {i}: {((whole - part).abs().max() / part.abs().max()).item():.1e}')


if __name__ == '__main__':
    main()

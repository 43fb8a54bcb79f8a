"""Exports a model with dynamic sizes and compares the files with PyTorch at many sizes.

    python benchmarks/onnx_parity.py CONFIG CHECKPOINT [--part model] [--to onnx torch-export]

Prints a Markdown table of the largest difference of the outputs at each size, relative to the
output's largest value if that is above 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from swin_backbone.tools.export import FORMATS, PARTS, check_file, export, load_part

# One patch, one token in some or all stages, less than a window, with and without padding, narrow;
# batches of one to three.
SIZES = [
    (1, 4, 4), (3, 5, 9), (1, 4, 200), (2, 17, 31), (1, 28, 28), (1, 32, 32), (2, 64, 64),
    (1, 97, 131), (3, 33, 150), (1, 113, 225), (2, 128, 96), (1, 224, 224), (1, 301, 203),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--part', choices=PARTS, default='backbone')
    parser.add_argument('--to', nargs='+', choices=FORMATS, default=FORMATS)
    options = parser.parse_args()

    part = load_part(options.config, options.checkpoint, options.part)
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for to in options.to:
            path = Path(folder) / ('model.onnx' if to == 'onnx' else 'model.pt2')
            start = time.process_time()
            export(part, path, to, dynamic=True)
            seconds, size = time.process_time() - start, path.stat().st_size / 2**20
            print(f'{to}: {seconds:.0f} s of processor time, {size:.1f} MiB', flush=True)
            columns.append([check.difference for check in check_file(path, part, SIZES)])
    print(f'\n| batch × height × width | {" | ".join(options.to)} |')
    print('|---|' + '---|' * len(columns))
    for shape, *differences in zip(SIZES, *columns, strict=True):
        cells = ' | '.join(f'{difference:.1e}' for difference in differences)
        print(f'| {" × ".join(map(str, shape))} | {cells} |')


if __name__ == '__main__':
    main()

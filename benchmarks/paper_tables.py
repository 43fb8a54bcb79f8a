"""Published and counted parameters and FLOPs: docs/paper_tables.md.

``python benchmarks/paper_tables.py`` prints the tables, ``--write`` writes them to the document.
Models are built on the meta device, and counting all of them takes half a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

import swin_backbone
from swin_backbone.tools.complexity import Complexity, complexity, default_shape
from swin_backbone.tools.configs import read, shipped
from swin_backbone.tools.predictor import build_on_meta

DOCUMENT = Path(__file__).resolve().parents[1] / 'docs' / 'paper_tables.md'
BEGIN, END = '<!-- tables: python benchmarks/paper_tables.py --write -->', '<!-- end of tables -->'
TOLERANCE = 0.02


@dataclass(frozen=True)
class Row:
    """A row of a published table: parameters in 10⁶ and FLOPs in 10⁹, as printed."""

    model: str
    params: int
    flops: float
    source: str
    count: Callable[[], Complexity]
    available: bool = True  # whether this version of the package has the config or backbone
    elsewhere: float | None = None  # FLOPs in another publication, if these are wrong

    def difference(self, found: Complexity) -> float:
        """Relative difference of counted and published FLOPs."""
        return found.flops / 1e9 / (self.elsewhere or self.flops) - 1


@cache
def count_config(name: str) -> Complexity:
    """Counts a shipped config at its usual input size."""
    config = read(name)
    return complexity(build_on_meta(config, name), default_shape(config))


def of_config(name: str) -> dict:
    """Fields of a row: a shipped config's count, and whether it is available."""
    return dict(count=partial(count_config, name), available=name in shipped())


def of_classifier(arch: str, side: int, window: int, version: str = '') -> dict:
    """Fields of a row: a backbone with a linear classifier of 1000 classes."""
    backbone = getattr(swin_backbone, f'SwinTransformer{version}', None)

    @cache
    def count() -> Complexity:
        with torch.device('meta'):
            model = Classifier(backbone(arch=arch, window_size=window, out_indices=(3,)))
        return complexity(model, (3, side, side))

    return dict(count=count, available=backbone is not None)


class Classifier(nn.Module):
    """Mean of the last map and a linear layer (section 3.1)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = Mean()
        self.head = nn.Linear(backbone.num_features[-1], 1000)


class Mean(nn.Module):
    """The mean over positions of the last feature map."""

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return features[-1].mean((2, 3))


DETECTION = 'Swin-Transformer-Object-Detection'
SEGMENTATION = 'Swin-Transformer-Semantic-Segmentation'
RELEASE = 'microsoft/Swin-Transformer'
PAPER = 'arXiv:2103.14030'
CONVNEXT = 'arXiv:2201.03545'

TABLES = {
    'COCO, 800 × 1280': [
        Row('Mask R-CNN, Swin-T', 48, 267, DETECTION, **of_config('mask_rcnn_swin_t_coco')),
        Row('Mask R-CNN, Swin-S', 69, 359, DETECTION, **of_config('mask_rcnn_swin_s_coco')),
        Row('Cascade Mask R-CNN, Swin-T', 86, 745, DETECTION, **of_config('cascade_swin_t_coco')),
        Row('Cascade Mask R-CNN, Swin-S', 107, 838, DETECTION, **of_config('cascade_swin_s_coco')),
        Row('Cascade Mask R-CNN, Swin-B', 145, 982, DETECTION, **of_config('cascade_swin_b_coco')),
        Row('Cascade Mask R-CNN, Swin-L', 253, 1382, CONVNEXT, **of_config('cascade_swin_l_coco')),
        Row('HTC++, Swin-B', 160, 1043, PAPER, **of_config('htcpp_swin_b_coco')),
        Row('HTC++, Swin-L', 284, 1470, PAPER, **of_config('htcpp_swin_l_coco')),
    ],
    'ADE20K, 512 × 2048 and 640 × 2560': [
        Row('UPerNet, Swin-T', 60, 945, SEGMENTATION, **of_config('upernet_swin_t_ade20k')),
        Row('UPerNet, Swin-S', 81, 1038, SEGMENTATION, **of_config('upernet_swin_s_ade20k')),
        Row('UPerNet, Swin-B', 121, 1188, SEGMENTATION, **of_config('upernet_swin_b_ade20k')),
        Row('UPerNet, Swin-B, 640', 121, 1841, PAPER, **of_config('upernet_swin_b_22k_ade20k')),
        Row(
            'UPerNet, Swin-L, 640',
            234,
            3230,
            PAPER,
            elsewhere=2468,
            **of_config('upernet_swin_l_ade20k'),
        ),
    ],
    'ImageNet-1K': [
        Row('Swin-T', 28, 4.5, RELEASE, **of_classifier('tiny', 224, 7)),
        Row('Swin-S', 50, 8.7, RELEASE, **of_classifier('small', 224, 7)),
        Row('Swin-B', 88, 15.4, RELEASE, **of_classifier('base', 224, 7)),
        Row('Swin-B, 384', 88, 47.1, RELEASE, **of_classifier('base', 384, 12)),
        Row('Swin-L', 197, 34.5, RELEASE, **of_classifier('large', 224, 7)),
        Row('Swin-L, 384', 197, 103.9, RELEASE, **of_classifier('large', 384, 12)),
        Row('Swin V2-T, window 8', 28, 5.9, RELEASE, **of_classifier('tiny', 256, 8, 'V2')),
        Row('Swin V2-B, window 16', 88, 21.8, RELEASE, **of_classifier('base', 256, 16, 'V2')),
        Row('Swin V2-L, window 24', 197, 115.4, RELEASE, **of_classifier('large', 384, 24, 'V2')),
    ],
}


def tables() -> str:
    """All tables in Markdown."""
    return '\n\n'.join('\n'.join([f'## {name}', '', *_lines(TABLES[name])]) for name in TABLES)


def _lines(rows: list[Row]) -> Iterator[str]:
    yield (
        '| model | image | parameters, published | ours | FLOPs, published | ours | difference '
        '| executed | published in |'
    )
    yield '|---|---|---|---|---|---|---|---|---|'
    for row in rows:
        if row.available:
            yield _line(row, row.count())


def _line(row: Row, found: Complexity) -> str:
    published = f'{row.flops:g} G'
    source = row.source
    if row.elsewhere:
        published += f'; {row.elsewhere:g} G'
        source += f'; {CONVNEXT}'
    cells = (
        row.model,
        ' × '.join(map(str, found.shape[1:])),
        f'{row.params} M',
        f'{found.params / 1e6:.2f} M',
        published,
        _giga(found.flops),
        f'{row.difference(found):+.1%}'.replace('-0.0%', '0.0%').replace('+0.0%', '0.0%'),
        _giga(found.flops_executed),
        source,
    )
    return f'| {" | ".join(cells)} |'


def _giga(flops: int) -> str:
    return f'{flops / 1e9:.1f} G' if flops >= 1e11 else f'{flops / 1e9:.2f} G'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--write', action='store_true', help='write to docs/paper_tables.md')
    text = tables()
    if parser.parse_args().write:
        before, rest = DOCUMENT.read_text().split(BEGIN)
        after = rest.split(END)[1]
        DOCUMENT.write_text(f'{before}{BEGIN}\n\n{text}\n\n{END}{after}')
    print(text)


if __name__ == '__main__':
    main()

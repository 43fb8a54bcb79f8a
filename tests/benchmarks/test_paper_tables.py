"""What docs/paper_tables.md and docs/configs.md say of parameters and FLOPs is what is counted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))
from paper_tables import BEGIN, DOCUMENT, END, TABLES, TOLERANCE, count_config, tables  # noqa: E402

ROWS = {row.model: row for rows in TABLES.values() for row in rows if row.available}


# Counts are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('paper_tables')


@pytest.mark.parametrize('model', ROWS)
def test_counts_are_as_published(model):
    row, found = ROWS[model], ROWS[model].count()
    assert round(found.params / 1e6) == row.params
    assert abs(row.difference(found)) < TOLERANCE
    assert found.flops_executed <= found.flops and found.not_counted == []


def test_the_document_has_these_tables():
    written = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert written == tables(), 'python benchmarks/paper_tables.py --write'


def test_differences_are_explained():
    """A row that is off by more than rounding can make it is named in the document's prose."""
    prose = ' '.join(DOCUMENT.read_text().split(BEGIN)[0].split())
    for row in ROWS.values():
        last_digit = 0.1 if row.flops < 200 else 1
        if abs(row.difference(row.count())) > max(last_digit / 2 / row.flops, 0.003):
            head, backbone = row.model.split(', ')[:2]
            assert f'{head} with {backbone}' in prose


@pytest.mark.parametrize(
    'model, side, published',
    [
        ('Cascade Mask R-CNN, Swin-L', (800, 1280), 1382),
        ('UPerNet, Swin-L, 640', (640, 2560), 2468),
    ],
)
def test_without_attentions_products_it_is_the_other_papers_count(model, side, published):
    """4M²·hwC for each block, over the padded map: what arXiv:2201.03545 left out."""
    products = 0
    for i, depth in enumerate((2, 2, 18, 2)):
        rows, columns = (-(-length // (4 << i) // 7) * 7 for length in side)
        products += depth * 2 * 49 * rows * columns * (192 << i)
    assert abs((ROWS[model].count().flops - products) / 1e9 / published - 1) < 1e-3


def test_configs_table():
    """Each row `config | … | parameters | FLOPs` of docs/configs.md."""
    text = (ROOT / 'docs' / 'configs.md').read_text()
    rows = re.findall(r'^\| `(\w+)` \|.*\| ([\d.]+) M \| (\d+) G \|$', text, re.MULTILINE)
    assert len(rows) == 19
    for name, params, flops in rows:
        found = count_config(name)
        assert (f'{found.params / 1e6:.2f}', round(found.flops / 1e9)) == (params, int(flops)), name

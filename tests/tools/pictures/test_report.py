"""Reports are single files, and a browser shows the computed attention."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from small import SMALL, randomized

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.tools.pictures import report
from swin_backbone.tools.pictures.attention import BlockAttention
from swin_backbone.tools.pictures.curves import Run
from swin_backbone.tools.pictures.observation import observe
from swin_backbone.tools.pictures.report import attention_data, plot_report, quantised, show_report
from swin_backbone.tools.pictures.show import look, png_of
from swin_backbone.tools.pictures.subject import Subject

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
IMAGE = np.random.default_rng(0).integers(0, 256, (75, 150, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def subject():
    torch.manual_seed(0)
    model = randomized(SwinTransformer(**SMALL)).eval()
    return Subject('small <b>', 'mine & yours.pth', model, None, 'there is a backbone alone')


@pytest.fixture(scope='module')
def pictures(subject):
    return look(IMAGE, subject, point=(70, 30), stage=1, everywhere=True)


@pytest.fixture(scope='module')
def page(subject, pictures):
    return show_report('a "picture" <i>.png', IMAGE, subject, pictures)


class Links(HTMLParser):
    """All links and sources of a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        names = ('src', 'href', 'srcset', 'action', 'data', 'poster')
        self.found += [value for name, value in attributes if name in names]


def check_self_contained(page):
    links = Links(page).found
    assert links and all(link.startswith('data:') for link in links)
    text = re.sub(r'data:[\w/]+;base64,[\w+/=]+', '', page)
    assert not re.search(r'https?:|//\w+\.|url\(|@import|fetch\(|XMLHttp|import\(', text)


def test_needs_no_other_file(page):
    check_self_contained(page)
    assert len(page) < 5e6


def test_names_are_escaped(page):
    assert 'a &quot;picture&quot; &lt;i&gt;.png' in page and '<i>.png' not in page
    assert 'small &lt;b&gt;' in page and '<b>' not in page
    assert 'mine &amp; yours.pth' in page


def test_pictures_are_whole(page, pictures):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(text) for text in found] == list(pictures.png.values())
    assert 'No prediction: there is a backbone alone' in page


@pytest.mark.parametrize('kind', [SwinTransformer, SwinTransformerV2])
def test_weights_in_bytes(kind):
    model = randomized(kind(**SMALL)).eval()
    tokens, grid = observe(model, torch.randn(1, 3, 52, 75), [(0, 1)]).tokens[0, 1]
    attention = BlockAttention(model.stages[0].blocks[1], tokens, grid)
    for step in (1, 3):
        weights, most, padded = quantised(attention, step)
        columns = len(range(0, grid[1], step))
        assert len(weights) == len(most) == len(range(0, grid[0], step)) * columns
        for row, column in [(0, 0), (3, 6), (12, 18)]:
            found = attention.at(row, column)
            index = row // step * columns + column // step
            got = weights[index] / 255 * most[index]
            np.testing.assert_allclose(got, found.mean.flatten(), atol=most[index] / 500)
            assert most[index] == pytest.approx(found.mean.max(), rel=1e-6)
            assert padded[index] == pytest.approx(found.padded, abs=1e-6)


def test_large_maps_have_fewer_tokens(subject, pictures, monkeypatch):
    monkeypatch.setattr(report, 'MOST_BYTES', 40_000)
    data = attention_data(IMAGE, subject, pictures)
    assert [stage['step'] for stage in data['stages']] == [2, 1, 1, 1]
    for stage in data['stages']:
        sizes = [len(base64.b64decode(b['weights'])) for b in stage['blocks']]
        tokens = np.prod([-(-side // stage['step']) for side in stage['grid']])
        assert sizes == [tokens * b['window'] ** 2 for b in stage['blocks']]
        assert sum(sizes) + 16 * tokens <= 10_000


def in_chromium(page, tmp_path, fragment=''):
    """The page after a browser has run its script, and the console's messages."""
    if not CHROMIUM:
        pytest.skip('chromium is not installed')
    file = tmp_path / 'page.html'
    file.write_text(page)
    done = subprocess.run(
        [
            CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
            f'--user-data-dir={tmp_path / "profile"}', '--virtual-time-budget=5000', '--dump-dom',
            file.as_uri() + fragment,
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if 'CONSOLE' in line]


@pytest.mark.parametrize(('stage', 'x', 'y'), [(1, 70, 30), (0, 149, 74), (3, 5, 70)])
def test_a_browser_shows_what_is_computed(page, subject, pictures, tmp_path, stage, x, y):
    document, console = in_chromium(page, tmp_path, f'#stage={stage}&x={x}&y={y}')
    assert console == []
    row, column = (int(v // (4 * 2**stage)) for v in (y, x))
    shown = re.findall(r'<canvas.*?</canvas><p>(.*?)</p>', document)
    assert shown[0] == f'Token ({row}, {column}), in row and column.'
    assert len(shown) == 3
    for block, text in enumerate(shown[1:]):
        tokens, grid = pictures.seen.tokens[stage, block]
        module = subject.backbone.stages[stage].blocks[block]
        found = BlockAttention(module, tokens, grid).at(row, column)
        most, *padded = (float(n) / 100 for n in re.findall(r'([\d.]+) %', text))
        assert most == pytest.approx(found.mean.max(), abs=6e-3)
        assert bool(padded) == (found.padded > 0)
        if padded:
            assert padded[0] == pytest.approx(found.padded, abs=6e-3)


def test_a_broken_script_would_be_noticed(page, tmp_path):
    _, console = in_chromium(page.replace("'use strict';", 'no_such_function();'), tmp_path)
    assert any('no_such_function' in line for line in console)


def test_curves(tmp_path):
    from swin_backbone.tools.pictures.curves import draw_curves

    run = Run('<a>', dict(loss=([1, 2], [2.0, 1.25])), dict(mIoU=([2], [float('nan')])))
    page = plot_report([run], png_of(draw_curves([run])))
    check_self_contained(page)
    assert '<td>loss</td><td>1.25</td>' in page and '<td>mIoU</td><td>not finite</td>' in page
    assert '&lt;a&gt;' in page and '<a>' not in page


def test_data_cannot_end_its_script(subject, pictures):
    text = report._json({'a': '</script><script>'})
    assert '<' not in text and json.loads(text) == {'a': '</script><script>'}

"""The page in a real browser, headless Chromium, served by the real command."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from served import DETECTOR, ROOT, SEGMENTOR, Served, serving, written

playwright = pytest.importorskip('playwright.sync_api')

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
# One worker has the browser, and the models, for all of these.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed'),
    pytest.mark.xdist_group('browser'),
]

# Drops a file, given as text in Latin-1, where people drop one.
DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(content, (letter) => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type }));
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        const options = { dataTransfer: carried, bubbles: true, cancelable: true };
        document.getElementById('stage').dispatchEvent(new DragEvent(kind, options));
    }
}"""
PASTE = """([name, type, content]) => {
    const bytes = Uint8Array.from(content, (letter) => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type }));
    document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: carried, bubbles: true }));
}"""


class Page:
    """A tab, with its console messages and requests."""

    def __init__(self, tab, url: str) -> None:
        self.tab, self.url = tab, url
        self.errors: list[str] = []
        self.requests: list[str] = []
        tab.on('console', lambda said: self._said(said))
        tab.on('pageerror', lambda error: self.errors.append(str(error)))
        tab.on('request', lambda request: self.requests.append(request.url))
        tab.goto(url)
        tab.wait_for_selector('#limits:not(:empty)')

    def _said(self, said) -> None:
        refused = 'the server responded with a status of' in said.text  # Chromium's own
        if said.type in ('error', 'warning') and not refused:
            self.errors.append(said.text)

    def drop(self, name: str, kind: str, content: bytes, how: str = DROP) -> None:
        self.tab.evaluate(how, [name, kind, content.decode('latin-1')])

    def look(self, file: Path, how: str = DROP) -> dict:
        """Drops an image; returns the server's response once it is on the canvas."""
        with self.tab.expect_response('**/predict') as waiting:
            self.drop(file.name, 'image/png', file.read_bytes(), how)
        self.tab.wait_for_selector('#panel:not([hidden]):not([inert])')
        return waiting.value.json()

    def slide(self, name: str, value: float) -> None:
        self.tab.fill(f'#{name}', str(value))

    def pixels(self) -> np.ndarray:
        """The pixels of the canvas, (H, W, 4)."""
        shown = self.tab.evaluate("document.getElementById('canvas').toDataURL()")
        png = io.BytesIO(base64.b64decode(shown.partition(',')[2]))
        return np.asarray(Image.open(png).convert('RGBA')).astype(int)

    def asked(self, path: str) -> int:
        return sum(urlsplit(url).path == path for url in self.requests)


@pytest.fixture(scope='module')
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not work for root, nor in most containers.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield started
        started.close()


@pytest.fixture(scope='module')
def segmentor(folder) -> Iterator[Served]:
    with serving('--config', SEGMENTOR, '--weights', written(SEGMENTOR, folder)) as served:
        yield served


@pytest.fixture
def opened(browser) -> Iterator:
    """Opens pages; they must not log errors, nor send requests to other servers."""
    contexts, pages = [], []

    def open_page(url: str, **options: object) -> Page:
        contexts.append(browser.new_context(**options))
        pages.append(Page(contexts[-1].new_page(), url))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.errors == []
        elsewhere = [u for u in page.requests if not u.startswith((page.url, 'blob:', 'data:'))]
        assert elsewhere == []
    for context in contexts:
        context.close()


def palette_of(url: str) -> list:
    with urllib.request.urlopen(f'{url}model', timeout=20) as response:
        return json.load(response)['palette']


def near(pixels: np.ndarray, colour: list, within: int = 8) -> np.ndarray:
    return (np.abs(pixels[..., :3] - colour) <= within).all(axis=-1)


def edges(pixels: np.ndarray, box: list, width: int, colour: list) -> float:
    """The share of a box's edge within the picture that has a colour."""
    scale = pixels.shape[1] / width
    left, top, right, bottom = (np.array(box) * scale).round().astype(int)
    rows = np.arange(top, bottom).clip(0, pixels.shape[0] - 1)
    columns = np.arange(left, right).clip(0, pixels.shape[1] - 1)
    points = [(rows, np.full_like(rows, side)) for side in (left, right)]
    points += [(np.full_like(columns, side), columns) for side in (top, bottom)]
    inside = [
        near(pixels[y, x], colour)
        for y, x in points
        if y.min() > 0 and y.max() < pixels.shape[0] and x.min() > 0 and x.max() < pixels.shape[1]
    ]
    return float(np.concatenate(inside).mean()) if inside else 1.0


def test_boxes_and_the_slider(opened, detector, image):
    page, colours = opened(detector.url), palette_of(detector.url)
    answer = page.look(image)
    assert (answer['width'], answer['height']) == (141, 90)
    page.slide('score', 0)
    page.slide('opacity', 0)
    everything = page.pixels()
    best = answer['boxes'][0], colours[answer['labels'][0]]
    assert edges(everything, best[0], 141, best[1]) > 0.6
    count = len(answer['scores'])
    assert count > 3 and page.tab.inner_text('#status').startswith(f'{count} objects')
    assert page.tab.locator('#found li').count() == count

    asked = len(page.requests)
    middle = (answer['scores'][0] + answer['scores'][1]) / 2
    page.tab.evaluate("document.getElementById('score').step = 'any'")
    page.slide('score', middle)
    assert page.tab.inner_text('#status').startswith('1 object ·')
    alone = page.pixels()
    page.slide('score', 1)
    assert page.tab.inner_text('#status').startswith('0 objects')
    none = page.pixels()
    # The best one's edge goes last; and then the picture is as it was dropped, but for JPEG.
    assert edges(alone, best[0], 141, best[1]) > 0.9 > 0.3 > edges(none, best[0], 141, best[1])
    assert page.tab.inner_text('#found') == 'Nothing with such a score'
    assert len(page.requests) == asked and page.asked('/predict') == 1
    dropped = np.asarray(Image.open(image).resize((1128, 720), Image.Resampling.BILINEAR))
    assert none.shape == (720, 1128, 4)
    assert np.abs(none[..., :3] - dropped).mean() < 12
    assert np.abs(everything - none).max() > 100


def test_masks_and_classes(opened, detector, image):
    page, colours = opened(detector.url), palette_of(detector.url)
    answer = page.look(image)
    page.slide('score', 0)
    page.slide('opacity', 1)
    pixels = page.pixels()
    mask, label = next(
        (mask, label)
        for mask, label in zip(answer['masks'], answer['labels'], strict=True)
        if sum(mask['lengths'][1::2]) > 100
    )
    painted = near(pixels, colours[label]).mean()
    assert painted > 0.01
    for box in page.tab.locator('#classes input').all():
        if int(box.get_attribute('value')) == label:
            box.uncheck()
    assert near(page.pixels(), colours[label]).mean() < 0.001 + painted / 10
    assert mask['width'] > 0


@pytest.mark.slow
def test_segments(opened, segmentor, image):
    page, colours = opened(segmentor.url), palette_of(segmentor.url)
    segments = page.look(image)['segments']
    assert not page.tab.is_visible('#score')
    page.slide('opacity', 1)
    whole = np.repeat(segments['labels'], segments['lengths']).reshape(90, 141)
    pixels = page.pixels()[4::8, 4::8]  # the middles of the enlarged ones
    inner = np.zeros_like(whole, bool)  # with the same class all around
    inner[1:-1, 1:-1] = True
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(whole, shift, axis) == whole
    wanted = np.array(colours)[whole]
    assert inner.any() and near(pixels, wanted)[inner].all()
    label = segments['labels'][0]
    page.tab.locator(f'#classes input[value="{label}"]').uncheck()
    assert near(page.pixels()[4::8, 4::8], wanted)[inner & (whole == label)].mean() < 0.2


def test_refusals_are_told(opened, detector, image):
    page = opened(detector.url)
    page.drop('notes.txt', 'text/plain', b'hello, world')
    page.tab.wait_for_selector('#error:not([hidden])')
    assert 'This file is no image' in page.tab.inner_text('[role=alert]')
    assert page.tab.is_visible('#drop') and page.tab.is_hidden('#panel')
    page.look(image)  # and another one works
    assert page.tab.is_hidden('#error')
    asked = page.asked('/predict')
    page.drop('large.png', 'image/png', bytes(2**20 + 1))
    page.tab.wait_for_selector('#error:not([hidden])')
    assert '1 MiB are allowed' in page.tab.inner_text('#error')
    assert page.asked('/predict') == asked  # it is not even sent
    send = "(n) => fetch('predict', {method: 'POST', body: new Blob([new Uint8Array(n)])})"
    status = page.tab.evaluate(f'async (n) => (await ({send})(n)).status', 8 * 2**20)
    assert status == 413  # and if it were


def test_pasted_chosen_and_saved(opened, detector, image, folder):
    page = opened(detector.url, accept_downloads=True)
    page.look(image, PASTE)
    with page.tab.expect_response('**/predict'):
        page.tab.set_input_files('#file', image)
    page.tab.wait_for_selector('#panel:not([hidden]):not([inert])')
    page.slide('score', 0)
    with page.tab.expect_download() as waiting:
        page.tab.click('#save')
    assert waiting.value.suggested_filename == f'noise_{DETECTOR}.png'
    waiting.value.save_as(folder / 'saved.png')
    saved = np.asarray(Image.open(folder / 'saved.png').convert('RGBA')).astype(int)
    assert np.abs(saved - page.pixels()).max() <= 1


def test_keyboard_names_and_narrow_screens(opened, detector, image):
    page = opened(detector.url, viewport=dict(width=360, height=740), color_scheme='dark')
    page.tab.keyboard.press('Tab')
    assert page.tab.evaluate('document.activeElement.id') == 'file'
    page.look(image)
    page.tab.keyboard.press('Tab')
    assert page.tab.evaluate('document.activeElement.id') == 'score'
    before = float(page.tab.input_value('#score'))
    page.tab.keyboard.press('ArrowRight')
    assert float(page.tab.input_value('#score')) == pytest.approx(before + 0.01)
    assert page.tab.get_by_role('img', name='noise.png: ').count() == 1
    for role, name in (('slider', 'Score of at least'), ('button', 'Save the picture')):
        assert page.tab.get_by_role(role, name=name).is_visible()
    wide = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'
    assert page.tab.evaluate(wide) == 0
    ground = page.tab.evaluate('getComputedStyle(document.body).backgroundColor')
    assert max(map(int, ground[4:-1].split(','))) < 64


def test_a_server_that_is_gone(opened, image, detector):
    page = opened(detector.url)
    page.tab.route('**/predict', lambda route: route.abort())
    page.drop('noise.png', 'image/png', image.read_bytes())
    page.tab.wait_for_selector('#error:not([hidden])')
    assert 'Is it still running?' in page.tab.inner_text('#error')
    page.errors = [error for error in page.errors if 'ERR_FAILED' not in error]


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(sys.prefix) / 'peers').is_dir(), reason='mmpretrain is not among the peers'
)
def test_classes_of_a_classifier(opened, folder, image):
    config, weights = folder / 'classifier.py', folder / 'classifier.pth'
    config.write_text(
        f"_base_ = '{ROOT}/configs/swin_t_imagenet.py'\n"
        "backbone = dict(_delete_=True, type='SwinTransformer', arch=dict("
        'embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)))\n'
        'model = dict(backbone=backbone, head=dict(in_channels=192))\n'
    )
    code = (
        'import with_mmpretrain, torch\n'
        'from small import randomized\n'
        'from swin_backbone.cli import main\n'
        'from swin_backbone.tools.predictor import build\n'
        'from swin_backbone.tools.configs import read\n'
        f'model = randomized(build(read({str(config)!r}), "it"))\n'
        f'torch.save(model.state_dict(), {str(weights)!r})\n'
        'main()'
    )
    command = (sys.executable, '-W', 'ignore', '-c', code, 'serve')
    with serving('--config', config, '--weights', weights, command=command) as served:
        page, colours = opened(served.url), palette_of(served.url)
        scores = page.look(image)['scores']
        assert len(scores) == 1000
        best = int(np.argmax(scores))
        page.slide('score', 0)
        assert page.tab.locator('#found li').count() == 10
        assert page.tab.is_hidden('#classes-box') and page.tab.is_hidden('#opacity-control')
        assert near(page.pixels()[:80, :300], colours[best]).mean() > 0.05
        page.slide('score', 1)
        assert page.tab.inner_text('#found') == 'No class with such a score'
        assert near(page.pixels()[:80, :300], colours[best]).mean() < 0.01

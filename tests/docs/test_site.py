"""Pages, links, API and drawings of the documentation are whole, and say what the package does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from blocks import DOCS, PAGES, ROOT

import swin_backbone
from swin_backbone import SwinTransformer
from swin_backbone.arguments import ALIASES
from swin_backbone.ops.tiles import TOKENS, window_tiles
from swin_backbone.ops.window_attention import reference

MKDOCS = ROOT / '.cache/docs/bin/mkdocs'
PUBLIC = {
    'swin_backbone': swin_backbone,
    **{
        f'swin_backbone.{name}': importlib.import_module(f'swin_backbone.{name}')
        for name in ('weights', 'tools.export', 'ops.window_attention')
    },
}
# Not of this package, or no more than its number.
NOT_DOCUMENTED = {'__version__', 'register'}


def without_code(text: str) -> str:
    return re.sub(r'^ *```.*?^ *```$|`[^`\n]*`', '', text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-') for h in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_hold(page):
    # Labels may be code; targets are not.
    text = re.sub(r'^ *```.*?^ *```$', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?://', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_pages_name_are_there(page):
    named = re.findall(
        r'`(?:python )?((?:swin_backbone|tests|benchmarks|configs|docs|requirements)/[\w/.]+\.\w+)',
        page.read_text(),
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def settings() -> dict:
    return yaml.safe_load((ROOT / 'mkdocs.yml').read_text())


def test_every_page_is_in_the_navigation():
    def pages(entry) -> list[str]:
        if isinstance(entry, dict):
            entry = list(entry.values())
        return [entry] if isinstance(entry, str) else [p for part in entry for p in pages(part)]

    written = {page.relative_to(DOCS).as_posix() for page in DOCS.glob('**/*.md')}
    assert set(pages(settings()['nav'])) == written


def test_nothing_is_fetched_from_elsewhere():
    assert settings()['theme']['font'] is False
    assert not {'extra_css', 'extra_javascript'} & settings().keys()
    for image in DOCS.glob('**/*.svg'):
        assert not re.search(r'href="http|@import|<script', image.read_text()), image


def documented() -> list[str]:
    """The names of which the API's pages show docstrings."""
    pages = (page.read_text() for page in (DOCS / 'api').glob('*.md'))
    return [name for text in pages for name in re.findall(r'^::: (\S+)$', text, re.MULTILINE)]


def resolve(name: str) -> object:
    """What a dotted name means."""
    module, _, attribute = name.rpartition('.')
    return getattr(importlib.import_module(module), attribute)


def test_the_api_has_every_public_name():
    shown = [resolve(name) for name in documented()]
    for name, module in PUBLIC.items():
        for public in set(module.__all__) - NOT_DOCUMENTED:
            value = getattr(module, public)
            assert any(value is other for other in shown), f'{name}.{public}'


def test_the_api_has_what_configs_are_told_to_name():
    """Import paths that the guides or recipes have are in the API, too."""
    texts = [page.read_text() for page in DOCS.glob('*.md')]
    texts += [path.read_text() for path in (ROOT / 'configs').glob('**/*.py')]
    named = {n for text in texts for n in re.findall(r"'(swin_backbone(?:\.\w+)+)'", text)}
    named = {name for name in named if not is_module(name)}
    assert len(named) >= 5
    assert sorted(named - set(documented())) == []


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize('name', documented())
def test_the_api_has_docstrings(name):
    value = resolve(name)
    assert isinstance(value, tuple | dict) or inspect.getdoc(value)


def test_arguments_of_the_others_are_theirs():
    """The table of migrate.md, against the classes and functions that are here."""
    table = (DOCS / 'migrate.md').read_text().partition('\n## Arguments')[2]
    rows = [
        # A cell may go on to say that the value is another.
        [re.match(r' (?:`(\w+)`|(–))', cell).group(1) or '–' for cell in line.strip('|').split('|')]
        for line in table.splitlines()
        if line.startswith('| `')
    ]
    ours = set(inspect.signature(SwinTransformer).parameters)
    peers = Path(sys.prefix, 'peers')
    theirs = [
        ours | ALIASES.keys(),  # the official spellings are taken
        arguments_in(peers / 'timm/models/swin_transformer.py', 'SwinTransformer'),
        arguments_of_config(),
        arguments_in(peers / 'torchvision/models/swin_transformer.py', 'SwinTransformer'),
    ]
    for own, *others in rows:
        assert own in ours
        for name, known in zip(others, theirs, strict=True):
            assert name == '–' or known is None or name in known, (own, name)
    stock = arguments_in(package('mmdet') / 'models/backbones/swin.py', 'SwinTransformer')
    assert {own for own, *_ in rows} <= stock <= ours


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0])


def arguments_in(file: Path, name: str) -> set[str] | None:
    """The arguments of a class in a file, which is not imported; None where it is not there."""
    if not file.is_file():
        return None
    (found,) = (
        node
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    (init,) = (n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == '__init__')
    return {a.arg for a in (*init.args.args, *init.args.kwonlyargs)} - {'self'}


def arguments_of_config() -> set[str]:
    from transformers import SwinConfig

    return set(SwinConfig().to_dict())


@pytest.fixture(scope='module')
def draw():
    spec = importlib.util.spec_from_file_location('draw', DOCS / 'images/draw.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawings_are_the_scripts(draw, tmp_path):
    drawn = {path.stem for path in (DOCS / 'images').glob('*.svg')}
    assert drawn >= draw.DRAWINGS.keys()
    for name, make in draw.DRAWINGS.items():
        make().write(tmp_path / 'drawn.svg')
        assert (tmp_path / 'drawn.svg').read_text() == (DOCS / f'images/{name}.svg').read_text()


def test_the_drawn_regions_are_the_definitions(draw):
    like = torch.zeros(1)
    mask = reference.shift_mask(draw.PADDED_H, draw.PADDED_W, draw.WINDOW, draw.SHIFT, like)
    tokens = range(draw.WINDOW**2)
    for window, expected in enumerate(mask):
        regions = [draw.token_region(window, token) for token in tokens]
        apart = torch.tensor([[a != b for b in regions] for a in regions])
        assert torch.equal(apart, expected == reference.MASKED)


def test_the_drawn_places_are_the_kernels(draw):
    size = (1, draw.H, draw.W)
    (tile,) = window_tiles(size, draw.WINDOW, draw.SHIFT, None)
    places = [draw.place(w, t) for w in range(6) for t in range(draw.WINDOW**2)]
    on_map = torch.tensor([y < draw.H and x < draw.W for y, x in places])
    assert torch.equal(on_map, tile.real)
    rows = torch.tensor([y * draw.W + x for y, x in places])
    assert torch.equal(rows[on_map], tile.rows[on_map])


def test_the_page_says_how_large_a_tile_is():
    assert f'up to {TOKENS} tokens' in (DOCS / 'how_it_works.md').read_text()
    assert f'{TOKENS // 49} windows of 7 × 7' in (DOCS / 'images/draw.py').read_text()


@pytest.mark.skipif(not MKDOCS.exists(), reason='`make docs` was not run here')
def test_the_site_builds_without_a_warning(tmp_path):
    command = [str(MKDOCS), 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    environment = dict(os.environ, NO_MKDOCS_2_WARNING='1')
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / 'site').rglob('*.html'):
        text = page.read_text()
        fetched = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(?:https?:)?//', text
        )
        assert fetched == [], page
        assert ':class:' not in re.sub(r'<details.*?</details>', '', text, flags=re.DOTALL), page

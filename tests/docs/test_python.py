"""Every block of Python in README and docs/ runs, or is a config that can be read and built.

``TABLE`` says for each page what its blocks are, by words that stand in one of them alone. A block
that no entry names fails, and so does an entry without its block.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blocks import Block, all_blocks
from mmengine.config import Config
from small import SMALL
from stand_ins import CONFIGS, TINY

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.tools.configs import read
from swin_backbone.tools.predictor import build_on_meta
from swin_backbone.weights import catalog

# One worker makes the stand-ins.
pytestmark = pytest.mark.xdist_group('docs')


@dataclass(frozen=True)
class Run:
    """A program, run in a folder of stand-ins.

    Attributes:
        after: Words of the block of the same page that it goes on from.
        prints: Whether the page shows what it prints, in its one block of text.
        slow: Whether it takes more than seconds.
    """

    after: str = ''
    prints: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Settings:
    """All of a config, or what is added to ``base``; its model can be built."""

    base: str = 'mask_rcnn_swin_t_1x_coco.py'


@dataclass(frozen=True)
class Fragment:
    """Parts of a config: what is a backbone's is built, and files that it names are loaded."""


@dataclass(frozen=True)
class Followed:
    """Run by test_fine_tuning.py, which follows the page, or by test_own_classes.py."""


TABLE: dict[str, dict[str, Run | Settings | Fragment | Followed]] = {
    'README.md': {'mmdet::mask_rcnn': Settings()},
    'docs/configs.md': {'decay_rate=0.9': Settings(), 'path/to/configs/': Settings()},
    'docs/distributed.md': {'_base_/runtime/fsdp.py': Settings(), 'engine.runner': Settings()},
    'docs/export.md': {'load_part(': Run(slow=True)},
    'docs/fine_tune.md': {
        'NAMES = {': Followed(),
        'iterations, warm_up': Followed(),
        'DetInferencer': Followed(),
        'auto_scale_lr': Settings(),
        'num_things_classes': Followed(),
        '_base_.model.roi_head.bbox_head': Followed(),
        'train_steps': Followed(),
        'labels > 127': Followed(),
        'num_classes=len(classes),\n        loss_cls': Followed(),
        'CustomDataset': Followed(),
    },
    'docs/how_it_works.md': {'explain_backend': Run()},
    'docs/migrate.md': {
        'custom_imports': Settings('demo_mask_rcnn_shapes.py'),
        '# torchvision': Fragment(),
        'SwinModel': Run(),
        'attn_drop': Run(),
    },
    'docs/quick_start.md': {'torch.randn': Run(prints=True), 'mmdet::mask_rcnn': Settings()},
    'docs/reliability.md': {'deterministic=True': Settings()},
    'docs/visual.md': {'look(': Run()},
    'docs/weights.md': {
        'pretrained_window_sizes': Fragment(),
        '# one of several backbones': Fragment(),
        'model.load_state_dict': Run(),
        'convert_file(': Run(after='model.load_state_dict'),
        "in_channels='mean'": Fragment(),
        'swin_large_in22k_384': Fragment(),
    },
}
BLOCKS = [block for block in all_blocks() if block.language == 'python']


def named(page: str, words: str) -> Block:
    """The block of a page in which words stand."""
    (block,) = (b for b in BLOCKS if b.page == page and words in b.text)
    return block


def entries(kind: type) -> list[Any]:
    """Page, words and entry of all of a kind, as parameters of a test."""
    return [
        pytest.param(
            *(page, words, entry),
            id=f'{page}: {words}',
            marks=[pytest.mark.slow] if getattr(entry, 'slow', False) else [],
        )
        for page, names in TABLE.items()
        for words, entry in names.items()
        if isinstance(entry, kind)
    ]


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_every_block_has_one_entry(block):
    found = [words for words in TABLE.get(block.page, {}) if words in block.text]
    assert len(found) == 1, f'{block}: {found}; add it to TABLE'


def test_every_entry_has_its_block():
    for page, names in TABLE.items():
        for words in names:
            assert named(page, words), (page, words)


@pytest.mark.parametrize(('page', 'words', 'entry'), entries(Run))
def test_a_program_runs(page, words, entry, folder, capsys):
    program = named(page, entry.after).text if entry.after else ''
    program += named(page, words).text
    exec(compile(program, page, 'exec'), {'__name__': '__main__'})
    if entry.prints:
        (shown,) = (b.text for b in all_blocks() if (b.page, b.language) == (page, 'text'))
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize(('page', 'words', 'entry'), entries(Settings))
def test_settings_make_a_config(page, words, entry, folder):
    text = named(page, words).text
    # As though it lay among the package's configs.
    text = text.replace("'path/to/configs/", f"'{CONFIGS}/")
    for name in ('cascade_swin_l_coco.py', '_base_/'):
        text = text.replace(f"'{name}", f"'{CONFIGS}/{name}")
    if '_base_' not in text:
        text = f'_base_ = {str(CONFIGS / entry.base)!r}\n{text}'
    file = folder / 'of_the_page.py'
    file.write_text(text)
    config = read(file)
    assert sum(weight.numel() for weight in build_on_meta(config, page).parameters()) > 1e6
    for checkpoint in checkpoints(config.to_dict()):
        assert checkpoint in catalog.catalog() or (folder / checkpoint).exists(), checkpoint


def checkpoints(settings: Any) -> Iterator[str]:
    """Every checkpoint that settings name."""
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from checkpoints(value)
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key in ('checkpoint', 'load_from') and isinstance(value, str):
                yield value
            yield from checkpoints(value)


@pytest.mark.parametrize(('page', 'words', 'entry'), entries(Fragment))
def test_fragments_of_configs_hold(page, words, entry, folder):
    for statement in ast.parse(named(page, words).text).body:
        assert isinstance(statement, ast.Assign)
        name = ast.unparse(statement.targets[0])
        value = eval(compile(ast.Expression(statement.value), page, 'eval'))
        if name == 'load_from':
            assert value in catalog.catalog()
        else:
            check_backbone(dict(init_cfg=value) if name == 'init_cfg' else value, folder)


def check_backbone(settings: dict, folder: Path) -> None:
    """Builds a backbone of published weights, or one that loads the stand-in."""
    kinds = {'SwinTransformer': SwinTransformer, 'SwinTransformerV2': SwinTransformerV2}
    kind = kinds[settings.pop('type', 'SwinTransformer')]
    checkpoint = settings['init_cfg']['checkpoint']
    if checkpoint in catalog.catalog():
        kind(**settings)
        return
    assert (folder / checkpoint).exists(), checkpoint
    settings |= dict(arch='tiny') if checkpoint in TINY else dict(SMALL, arch=None)
    kind(**settings).init_weights()


def test_configs_of_the_pages_are_read_as_they_are(folder):
    """The one that README and quick start begin with is the same, and is Swin-T's."""
    texts = [named(page, 'mmdet::mask_rcnn').text for page in ('README.md', 'docs/quick_start.md')]
    configs = []
    for number, text in enumerate(texts):
        Path(f'{number}.py').write_text(text)
        configs.append(Config.fromfile(f'{number}.py').model.to_dict())
    assert configs[0] == configs[1]

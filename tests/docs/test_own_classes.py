"""docs/fine_tune.md's classes of one's own in other recipes: nothing is forgotten in any."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from blocks import DOCS, blocks
from own_data import coco, label_maps
from PIL import Image
from stand_ins import CONFIGS

from swin_backbone.tools.configs import read
from swin_backbone.tools.data_report import Report, report

PAGE = DOCS / 'fine_tune.md'
NAMES = ('lid', 'plate', 'washer')
WEIGHTS = 'num_classes=len(classes),\n        loss_cls'


def text(words: str) -> str:
    """The block of the page in which words stand."""
    (found,) = (block.text for block in blocks(PAGE) if words in block.text)
    return found


def looked(recipe: str, *words: str) -> Report:
    """What is in the data of a recipe with blocks of the page below its line."""
    lines = [f"_base_ = '{CONFIGS / recipe}.py'", *map(text, words)]
    Path('my_config.py').write_text('\n'.join(lines))
    return report(read('my_config.py'), 'my_config.py')


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def objects(tmp_path) -> Path:
    """Data in COCO's format, as the page has them."""
    (tmp_path / 'data/annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        file = coco(tmp_path / split, NAMES)
        shutil.move(file, tmp_path / f'data/annotations/{split}.json')
        shutil.move(tmp_path / split / 'images', tmp_path / f'data/images/{split}')
    return tmp_path / 'data'


@pytest.fixture
def pixels(tmp_path) -> Path:
    """Maps of 0 and 255, as drawing programs write them."""
    for split in ('train', 'val'):
        label_maps(tmp_path / split, inside=255)
        for kind in ('images', 'labels'):
            shutil.move(tmp_path / split / kind, tmp_path / f'data/{kind}/{split}')
    return tmp_path / 'data'


def test_instances_with_mask2former(objects):
    found = looked('mask2former_swin_l_coco_instance', 'num_things_classes')
    assert found.problems == [] and {one.images for one in found.contents} == {4}
    (objects / 'annotations/train.json').write_text(
        (objects / 'annotations/train.json').read_text().replace('"lid"', '"Lid"')
    )
    found = looked('mask2former_swin_l_coco_instance', 'num_things_classes')
    assert len(found.problems) == 1 and "the nearest to 'lid' is 'Lid'" in found.problems[0]


def test_what_is_forgotten_is_named(objects):
    """Of the recipe as it is, with the data alone changed."""
    (data, model) = text('num_things_classes').split('model = dict(')
    assert 'panoptic_head' in model
    Path('data.py').write_text(f"_base_ = '{CONFIGS}/mask2former_swin_l_coco_instance.py'\n{data}")
    found = report(read('data.py'), 'data.py')
    assert found.compared.options == {
        'model.panoptic_head.num_things_classes': 3,
        'model.panoptic_head.loss_cls.class_weight': [1.0, 1.0, 1.0, 0.1],
        'model.panoptic_fusion_head.num_things_classes': 3,
    }


@pytest.mark.parametrize('recipe', ['cascade_swin_t_coco', 'cascade_swin_t_1x_coco'])
def test_cascades(objects, recipe):
    (data, _) = text('num_things_classes').split('model = dict(')
    lines = [f"_base_ = '{CONFIGS}/{recipe}.py'", data, text('_base_.model.roi_head.bbox_head')]
    Path('my_config.py').write_text('\n'.join(lines))
    assert report(read('my_config.py'), 'my_config.py').problems == []


@pytest.mark.parametrize(
    ('recipe', 'more'),
    [('upernet_swin_t_ade20k', ()), ('mask2former_swin_l_ade20k', (WEIGHTS,))],
)
def test_pixels(pixels, recipe, more):
    found = looked(recipe, 'train_steps', *more)
    problems = [problem for problem in found.problems if 'auxiliary_head' not in problem]
    assert len(problems) == 2 and all('hold 0 and 255 alone' in problem for problem in problems)
    (pixels.parent / 'maps.py').write_text(text('labels > 127'))
    runpy.run_path('maps.py')
    assert set(np.unique(Image.open(pixels / 'labels/val/0.png'))) == {0, 1}
    assert looked(recipe, 'train_steps', *more).problems == []

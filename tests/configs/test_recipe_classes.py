"""Every recipe is for the classes of its data, and says which options other classes need."""

from __future__ import annotations

import time

import mmseg.datasets  # noqa: F401
import pytest
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS
from recipes import CONFIGS, load, model

from swin_backbone.engine.check_classes import Data, comparison, explained
from swin_backbone.engine.class_counts import Classes, counts_of

# Configs and models are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('configs')

TWO = Classes(('cat', 'dog'))


class Named:
    """As much of a data set as is asked."""

    def __init__(self, **metainfo: object) -> None:
        self.metainfo = metainfo


def own(name: str) -> Named:
    """The classes of a recipe's own data set."""
    config = load(name)
    with DATASETS.switch_scope_and_registry(config.default_scope) as registry:
        return Named(**registry.get(config.train_dataloader.dataset.type).METAINFO)


def wanted(name: str, classes: Classes) -> dict[str, int | None]:
    found = counts_of(model(name), load(name))
    return {count.option.removeprefix('model.'): count.wanted(classes) for count in found}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_fits_its_data(name):
    built, config, data = model(name), load(name), [Data('train', own(name))]
    assert any(count.value > 2 for count in counts_of(built, config))
    start = time.perf_counter()
    found = comparison(built, config, data)
    assert time.perf_counter() - start < 0.2
    assert found.problems == found.remarks == []


def test_every_stage_of_a_cascade_is_told_of():
    stages = {f'roi_head.bbox_head.{i}.num_classes': 2 for i in range(3)}
    assert wanted('cascade_swin_t_coco', TWO) == stages | {'roi_head.mask_head.num_classes': 2}


def test_a_semantic_branch_counts_labels_of_maps():
    found = wanted('htcpp_swin_b_coco', TWO)
    assert len(found) == 7 and found.pop('roi_head.semantic_head.num_classes') is None
    assert set(found.values()) == {2}


def test_mask2former_of_instances():
    assert wanted('mask2former_swin_l_coco_instance', TWO) == {
        'panoptic_head.num_things_classes': 2,
        'panoptic_head.num_stuff_classes': None,  # 0
        'panoptic_head.loss_cls.class_weight': 3,
        'panoptic_fusion_head.num_things_classes': 2,
        'panoptic_fusion_head.num_stuff_classes': None,
    }


def test_mask2former_of_things_and_stuff():
    found = wanted('mask2former_swin_l_coco_panoptic', Classes(('cat', 'dog', 'sky'), 2, 1))
    assert found == {
        'panoptic_head.num_things_classes': 2,
        'panoptic_head.num_stuff_classes': 1,
        'panoptic_head.loss_cls.class_weight': 4,
        'panoptic_fusion_head.num_things_classes': 2,
        'panoptic_fusion_head.num_stuff_classes': 1,
    }


def test_mask2former_of_pixels():
    found = wanted('mask2former_swin_l_ade20k', TWO)
    assert found == {'decode_head.num_classes': 2, 'decode_head.loss_cls.class_weight': 3}


def test_upernet_has_two_heads():
    heads = {'decode_head.num_classes': 2, 'auxiliary_head.num_classes': 2}
    assert wanted('upernet_swin_t_ade20k', TWO) == heads


def test_dino_has_one():
    assert wanted('dino_swin_l_coco', TWO) == {'bbox_head.num_classes': 2}


def test_several_views():
    found = wanted('htcpp_swin_l_mstest_coco', TWO)
    assert found.pop('module.roi_head.semantic_head.num_classes') is None
    assert len(found) == 6 and set(found.values()) == {2}


@pytest.mark.parametrize(
    ('name', 'lines'),
    [
        (
            'mask_rcnn_swin_t_coco',
            [
                'train_dataloader.dataset has 2 classes (cat, dog), but',
                '  model.roi_head.bbox_head.num_classes = 80, not 2',
                '  model.roi_head.mask_head.num_classes = 80, not 2',
                'in the config:',
                '  model = dict(roi_head=dict(bbox_head=dict(num_classes=2), '
                'mask_head=dict(num_classes=2)))',
                'or on the command line:',
                '  --cfg-options model.roi_head.bbox_head.num_classes=2 '
                'model.roi_head.mask_head.num_classes=2',
            ],
        ),
        (
            'cascade_swin_t_coco',
            [
                '  model = dict(roi_head=dict(bbox_head=[dict(item, num_classes=2) for item in '
                '_base_.model.roi_head.bbox_head], mask_head=dict(num_classes=2)))',
                'model.roi_head.bbox_head.2.num_classes=2',
            ],
        ),
        (
            'mask2former_swin_l_ade20k',
            [
                '  model.decode_head.loss_cls.class_weight has 151 values, not 3, one of them for '
                '"no object" or background',
                'loss_cls=dict(class_weight=[1.0, 1.0, 0.1])',
                'model.decode_head.loss_cls.class_weight=[1.0,1.0,0.1]',
            ],
        ),
    ],
)
def test_the_options_are_written_out(name, lines):
    config = load(name)
    found = comparison(model(name), config, [Data('train', Named(classes=('cat', 'dog')))])
    text = '\n'.join(explained(found, config))
    for line in lines:
        assert line in text


def test_what_is_written_out_mends_the_config(tmp_path):
    """Both forms, for lists and for weights of losses."""
    for name in ('cascade_swin_t_coco', 'mask2former_swin_l_ade20k'):
        config, data = load(name), [Data('train', Named(classes=('cat', 'dog')))]
        found = comparison(model(name), config, data)
        lines = list(explained(found, config))
        file = tmp_path / f'{name}.py'
        written = lines[lines.index('in the config:') + 1].strip()
        file.write_text(f'_base_ = {config.filename!r}\n{written}\n')
        by_file, by_command = Config.fromfile(file), load(name)
        words = lines[-1].split()[1:]
        by_command.merge_from_dict(
            {
                option: DictAction._parse_iterable(value)
                for option, value in (word.strip("'").split('=') for word in words)
            }
        )
        for changed in (by_file, by_command):
            for option, value in found.options.items():
                node = changed
                for part in option.split('.'):
                    node = node[int(part) if part.isdigit() else part]
                assert node == value

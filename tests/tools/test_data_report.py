"""Reports on a config's datasets; tests/cli tests how they are printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from own_data import NAMES, coco, dataset, label_maps, run_config, segmentation, segmented
from PIL import Image

from swin_backbone import ArgumentError
from swin_backbone.tools.data_contents import Contents
from swin_backbone.tools.data_report import Report, report

WITH_MASKS = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]


def looked(content: ConfigDict, *phases: str, images: int = 100) -> Report:
    return report(content, 'config.py', phases, images)


def only(found: Report) -> Contents:
    (one,) = found.contents
    return one


def assert_wrong(found: Report, *texts: str) -> None:
    assert len(found.problems) == len(texts), found.problems
    for problem, text in zip(found.problems, texts, strict=True):
        assert text in problem


# --- objects --------------------------------------------------------------------------------------


def test_objects(tmp_path):
    coco(tmp_path)
    coco(tmp_path, file='val.json', images=2, first=4, masks=False)
    config = run_config(tmp_path, dataset(tmp_path), dataset(tmp_path, file='val.json'))
    found = looked(config)
    assert found.problems == found.remarks == []
    train, val = found.contents  # the test's are the validation's
    assert train.option == 'train_dataloader.dataset' and train.kind == 'CocoDataset'
    assert train.classes == NAMES and train.images == train.opened == 4
    assert train.sizes == {(48, 48): 4} and train.modes == {'RGB': 4}
    assert train.objects == train.images_of == {0: 2, 1: 2} and train.with_masks == 4
    assert not train.pixels and not train.left_out
    assert val.images == 2 and val.with_masks == 0


def test_only_some_images_are_opened_and_all_are_counted(tmp_path):
    coco(tmp_path, images=10)
    one = only(looked(run_config(tmp_path, dataset(tmp_path)), images=3))
    assert one.opened == 3 and sum(one.objects.values()) == 10


def test_data_that_are_asked_for(tmp_path):
    coco(tmp_path)
    config = run_config(tmp_path, dataset(tmp_path, ('lids',)), dataset(tmp_path))
    assert looked(config, 'val').problems == []
    assert [one.option for one in looked(config, 'test').contents] == ['test_dataloader.dataset']


def test_wrapped_data_are_told_of_one_by_one(tmp_path):
    coco(tmp_path)
    both = dict(type='ConcatDataset', datasets=[dataset(tmp_path), dataset(tmp_path)])
    config = run_config(tmp_path, dict(type='RepeatDataset', times=2, dataset=both))
    options = [one.option for one in looked(config).contents]
    assert options == [f'train_dataloader.dataset.dataset.datasets.{i}' for i in range(2)]


def test_categories_that_are_left_out(tmp_path):
    coco(tmp_path, ('lid', 'plate', 'ring'), images=6)
    one = only(looked(run_config(tmp_path, dataset(tmp_path))))
    assert one.left_out == {'ring': 2} and one.objects == {0: 2, 1: 2}


def test_objects_without_masks(tmp_path):
    coco(tmp_path, masks=False)
    config = run_config(tmp_path, dataset(tmp_path, pipeline=WITH_MASKS))
    assert_wrong(looked(config), f'4 of 4 objects have no segmentation (in {tmp_path}/images/0.png')


def test_names_heads_and_classes_without_objects(tmp_path):
    coco(tmp_path)
    config = run_config(tmp_path, dataset(tmp_path, ('lids', 'plate')))
    assert_wrong(looked(config), 'metainfo.classes: not in')
    coco(tmp_path, (*NAMES, 'ring'), images=2)
    found = looked(run_config(tmp_path, dataset(tmp_path, (*NAMES, 'ring')), classes=80))
    assert_wrong(found, 'model.bbox_head.num_classes = 80, not 3')
    assert found.compared.options == {'model.bbox_head.num_classes': 3}
    assert found.remarks == ['train_dataloader.dataset: nothing is ring']


def test_images_that_are_not_as_they_are_said_to_be(tmp_path):
    file = coco(tmp_path, images=6)
    content = json.loads(file.read_text())
    content['images'][1]['width'] = 100
    file.write_text(json.dumps(content))
    (tmp_path / 'images/2.png').write_bytes((tmp_path / 'images/2.png').read_bytes()[:-30])
    (tmp_path / 'images/3.png').unlink()
    Image.new('L', (48, 48)).save(tmp_path / 'images/4.png')
    found = looked(run_config(tmp_path, dataset(tmp_path)))
    assert_wrong(
        found,
        '1.png has 48 × 48 pixels, and 100 × 48 in the annotations',
        '2.png cannot be read',
        '3.png cannot be read',
    )
    assert only(found).modes == {'RGB': 3, 'L': 1}


def test_images_that_lie_on_their_side(tmp_path):
    """EXIF rotation is applied before sizes are compared with annotations."""
    file = coco(tmp_path, images=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (48, 30)).save(tmp_path / 'images/0.jpg', exif=exif)
    content = json.loads(file.read_text())
    content['images'][0] |= dict(file_name='0.jpg', width=30, height=48)
    file.write_text(json.dumps(content))
    found = looked(run_config(tmp_path, dataset(tmp_path)))
    assert found.problems == [] and only(found).sizes == {(30, 48): 1}


def test_of_many_problems_alike_a_few_are_told(tmp_path):
    coco(tmp_path, images=8)
    for image in (tmp_path / 'images').iterdir():
        image.write_text('')
    problems = looked(run_config(tmp_path, dataset(tmp_path))).problems
    assert len(problems) == 4 and problems[-1].endswith('and 5 more like this one')


def test_no_images(tmp_path):
    coco(tmp_path)
    empty = dataset(tmp_path, filter_cfg=dict(min_size=1000))
    with pytest.raises(ArgumentError, match=r'train_dataloader\.dataset has no images'):
        looked(run_config(tmp_path, empty))
    found = looked(run_config(tmp_path, dict(empty, serialize_data=False)))
    assert_wrong(found, 'train_dataloader.dataset has no images')


# --- pixels ---------------------------------------------------------------------------------------


def test_pixels(tmp_path):
    found = looked(segmentation(segmented(label_maps(tmp_path))))
    one = only(found)
    assert found.problems == found.remarks == [] and not one.objects
    assert one.pixels == {0: 3 * 2400 - 15 * 48, 1: 15 * 48} and one.images_of == {0: 3, 1: 3}
    assert one.name(1) == 'crack' and one.name(255) == 'ignored' and one.name(7) == 'label 7'


def test_maps_of_0_and_255(tmp_path):
    """255 is mmseg's ignored label, so that all other pixels are background."""
    maps = segmented(label_maps(tmp_path, inside=255))
    text = "the maps hold 0 and 255 alone, and 255 is ignored: all that can be learned is 'ground'"
    assert_wrong(looked(segmentation(maps)), text)
    one_channel = dict(out_channels=1, threshold=0.5)
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    assert_wrong(looked(segmentation(maps, loss_decode=loss, **one_channel)), text)
    found = looked(segmentation(segmented(tmp_path, reduce_zero_label=True)))
    assert_wrong(found, 'all pixels are 255, which is ignored: with reduce_zero_label=True')


def test_labels_beyond_the_heads(tmp_path):
    found = looked(segmentation(segmented(label_maps(tmp_path, inside=7))))
    assert_wrong(found, *['have the label 7, and model.decode_head.num_classes = 2 is for 0'] * 3)
    assert 'nothing in the 3 maps that were opened is crack' in found.remarks[0]


def test_maps_that_are_none(tmp_path):
    label_maps(tmp_path, images=4)
    labels = np.ones((40, 60), np.uint8)
    Image.fromarray(labels).convert('RGB').save(tmp_path / 'labels/1.png')
    Image.fromarray(labels[:20]).save(tmp_path / 'labels/2.png')
    Image.fromarray(300 * labels.astype(np.uint16)).save(tmp_path / 'labels/3.png')
    found = looked(segmentation(segmented(tmp_path)))
    assert_wrong(
        found,
        '1.png has 3 channels (RGB): a map has one number for each pixel',
        '2.png has 60 × 20 pixels, its image 60 × 40',
        '3.png is of mode I;16, and labels are read as 8 bits',
        '3.png have the label 44',
    )


def test_two_opinions_of_label_0_in_maps(tmp_path):
    maps = segmented(label_maps(tmp_path))
    maps['pipeline'][1]['reduce_zero_label'] = True
    assert_wrong(looked(segmentation(maps)), 'train_dataloader.dataset.reduce_zero_label is False')


def test_maps_and_images_that_do_not_go_together(tmp_path):
    label_maps(tmp_path)
    (tmp_path / 'labels/1.png').unlink()
    assert_wrong(looked(segmentation(segmented(tmp_path))), '1.png cannot be read')
    nothing = segmented(tmp_path, img_suffix='.png', serialize_data=False)
    assert_wrong(looked(segmentation(nothing)), 'has no images')


# --- what cannot be looked at ---------------------------------------------------------------------


def test_a_model_that_cannot_be_built_is_remarked(tmp_path):
    coco(tmp_path)
    config = run_config(tmp_path, dataset(tmp_path))
    config.model.backbone.type = 'NoSuchBackbone'
    found = looked(config)
    assert found.problems == [] and only(found).objects == {0: 2, 1: 2}
    assert 'the data were not compared with the model' in found.remarks[0]


def test_data_that_cannot_be_had(tmp_path):
    coco(tmp_path)
    config = run_config(tmp_path, dataset(tmp_path))
    with pytest.raises(ArgumentError, match=r'config\.py has no val_dataloader\.dataset'):
        looked(config, 'val')
    config.train_dataloader.dataset.oversampled = True
    with pytest.raises(ArgumentError, match=r'train_dataloader\.dataset of config\.py cannot be'):
        looked(config)
    config.train_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(FileNotFoundError, match='nowhere'):
        looked(config)
    del config.train_dataloader
    with pytest.raises(ArgumentError, match=r'has no data: train_dataloader, .*, test_dataloader$'):
        looked(config)
    config.data = dict(samples_per_gpu=2)
    with pytest.raises(ArgumentError, match=r'has no data: .* written for mmdet 2 .*migrate\.md'):
        looked(config)


class Tensors(torch.utils.data.Dataset):
    """A dataset without metadata."""

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return 3


def test_data_that_say_nothing_of_themselves(tmp_path, monkeypatch):
    from mmengine.registry import DATASETS

    monkeypatch.setitem(DATASETS._module_dict, 'Tensors', Tensors)
    found = looked(run_config(tmp_path, dict(type='mmengine.Tensors')))
    assert only(found).images == 3 and 'does not tell' in found.remarks[0]


def test_the_config_is_left_as_it_was(tmp_path: Path):
    coco(tmp_path)
    config = run_config(tmp_path, dataset(tmp_path), dataset(tmp_path))
    before = str(config)
    looked(config)
    assert str(config) == before

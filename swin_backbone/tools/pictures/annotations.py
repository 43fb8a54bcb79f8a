"""Draws samples of a dataset with their annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS
from PIL import Image

from ...engine.check_annotations import classes_of, read_label_map, transform_with
from ..images import read_image
from ..predictor import Prediction, palette_of
from .drawing import draw_annotation


def draw_sample(dataset: Any, index: int) -> Image.Image:
    """A sample's image with its boxes, masks, segments or classes.

    Args:
        dataset: A dataset, without wrappers.
        index: The index of the sample.

    Raises:
        ArgumentError: The image cannot be read.
    """
    sample = dataset.get_data_info(index)
    image = read_image(sample['img_path'])
    known = classes_of(dataset)
    classes = () if known is None else known.names
    palette = palette_of(dataset.metainfo, len(classes))

    def name(label: int) -> str:
        return classes[label] if label < len(classes) else f'label {label}'

    return draw_annotation(image, _annotation(dataset, sample, image.shape[:2]), name, palette)


def _annotation(dataset: Any, sample: dict, size: tuple[int, int]) -> Prediction:
    if sample.get('instances') is not None:
        return _objects(sample, size)
    maps = transform_with(dataset, 'seg')
    if maps is not None and sample.get('seg_map_path'):
        labels = read_label_map(maps, sample)
        return Prediction(segments=None if labels is None else labels.astype(np.int64))
    given = sample.get('gt_label')
    return Prediction(labels=np.array([] if given is None else given, np.int64).reshape(-1))


def _objects(sample: dict, size: tuple[int, int]) -> Prediction:
    """Boxes, labels and masks, as mmdet reads them."""
    masks = bool(sample['instances']) and all('mask' in i for i in sample['instances'])
    load = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_label=True, with_mask=masks)
    found = TRANSFORMS.build(load)(dict(sample, img_shape=size, ori_shape=size))
    return Prediction(
        boxes=found['gt_bboxes'].numpy(),
        labels=found['gt_bboxes_labels'],
        masks=found['gt_masks'].to_ndarray().astype(bool) if masks else None,
    )

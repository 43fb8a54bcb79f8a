"""Little data sets, as COCO and ADE20K lie."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from little import IMAGES, SIDE, picture
from mmdet.datasets import CocoDataset


@pytest.fixture(scope='module')
def coco(tmp_path_factory) -> Path:
    """Four images of a bright rectangle each, as COCO 2017 lies; the same to train and validate."""
    root = tmp_path_factory.mktemp('coco')
    (root / 'annotations').mkdir()
    corners = [(10 + 5 * i, 20, 60 + 5 * i, 80) for i in range(IMAGES)]
    annotations = [
        dict(
            id=i + 1,
            image_id=i,
            category_id=1,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
            iscrowd=0,
        )
        for i, (x1, y1, x2, y2) in enumerate(corners)
    ]
    images = [dict(id=i, file_name=f'{i}.jpg', height=SIDE, width=SIDE) for i in range(IMAGES)]
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        (root / 'stuffthingmaps' / split).mkdir(parents=True)
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
        for i, box in enumerate(corners):
            cv2.imwrite(str(root / split / f'{i}.jpg'), picture(box))
            stuff = np.where(picture(box)[..., 0] > 100, 0, 120).astype(np.uint8)
            cv2.imwrite(str(root / 'stuffthingmaps' / split / f'{i}.png'), stuff)
    return root


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory) -> Path:
    """The like as ADE20K lies: label 2 in the rectangle, 1 around it."""
    root = tmp_path_factory.mktemp('ade20k')
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(IMAGES):
            box = (10 + 5 * i, 20, 60 + 5 * i, 80)
            cv2.imwrite(str(root / f'images/{split}/{i}.jpg'), picture(box))
            labels = np.where(picture(box)[..., 0] > 100, 2, 1).astype(np.uint8)
            cv2.imwrite(str(root / f'annotations/{split}/{i}.png'), labels)
    return root

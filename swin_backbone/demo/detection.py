"""The scenes as a COCO dataset of mmdet, generated on first use."""

from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from .scenes import CLASSES, PALETTE, prepare


@DATASETS.register_module()
class ShapesDetection(CocoDataset):
    """A ``CocoDataset`` whose ``data_root`` is generated if it is missing.

    Args:
        data_root: A folder that ``prepare`` wrote or will write.
        scenes: Parameters of ``prepare``.
    """

    METAINFO = dict(classes=CLASSES, palette=list(PALETTE[1:]))

    def __init__(self, data_root: str = 'data/shapes', scenes: dict = {}, **kwargs: Any) -> None:
        prepare(data_root, **scenes)
        super().__init__(data_root=data_root, **kwargs)

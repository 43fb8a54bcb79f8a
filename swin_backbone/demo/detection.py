"""The scenes as a COCO dataset of mmdet that draws itself on first use."""

from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from .scenes import CLASSES, PALETTE, prepare


@DATASETS.register_module()
class ShapesDetection(CocoDataset):
    """A ``CocoDataset`` whose ``data_root`` is drawn where it is not there yet.

    Args:
        data_root: The folder, as ``prepare`` lays it out.
        scenes: Parameters of ``prepare``.
    """

    METAINFO = dict(classes=CLASSES, palette=list(PALETTE[1:]))

    def __init__(self, data_root: str = 'data/shapes', scenes: dict = {}, **kwargs: Any) -> None:
        prepare(data_root, **scenes)
        super().__init__(data_root=data_root, **kwargs)

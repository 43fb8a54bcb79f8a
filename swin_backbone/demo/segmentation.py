"""The scenes as an ADE20K-like dataset of mmseg, generated on first use."""

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .scenes import PALETTE, SEGMENTS, prepare


@DATASETS.register_module()
class ShapesSegmentation(BaseSegDataset):
    """A dataset in the layout of ``ADE20KDataset`` that is generated if it is missing.

    Args:
        data_root: A folder that ``prepare`` wrote or will write.
        scenes: Parameters of ``prepare``.
    """

    METAINFO = dict(classes=SEGMENTS, palette=[list(colour) for colour in PALETTE])

    def __init__(self, data_root: str = 'data/shapes', scenes: dict = {}, **kwargs: Any) -> None:
        prepare(data_root, **scenes)
        super().__init__(
            data_root=data_root,
            img_suffix='.jpg',
            seg_map_suffix='.png',
            reduce_zero_label=True,
            **kwargs,
        )

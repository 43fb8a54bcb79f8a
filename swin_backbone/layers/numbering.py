"""Numbers of layers, for layer-wise learning rate decay."""

from __future__ import annotations

import re
from collections.abc import Sequence


def layer_id(name: str, depths: Sequence[int], merging_opens_stage: bool = False) -> int:
    """The layer of a parameter of Swin V1 or V2.

    Args:
        name: The parameter's name within the backbone.
        depths: Blocks of each stage, N in all.
        merging_opens_stage: Whether a patch merging belongs to the stage after it, as in V2.

    Returns:
        0 for patch and position embedding; 1 to N for a block and the patch merging after it; one
        more than the last block of stage i for ``norm{i}``; N + 1 for anything else.
    """
    if match := re.match(r'stages\.(\d+)\.(?:blocks\.(\d+)\.|downsample\.)', name):
        stage, block = match.groups()
        before = sum(depths[: int(stage)])
        if block is not None:
            return before + int(block) + 1
        return before + (0 if merging_opens_stage else depths[int(stage)])
    if match := re.match(r'norm(\d+)\.', name):
        return sum(depths[: int(match[1]) + 1]) + 1
    first = name.partition('.')[0]
    return 0 if first in ('patch_embed', 'absolute_pos_embed') else sum(depths) + 1

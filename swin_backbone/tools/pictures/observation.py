"""One run of a backbone, and what went on inside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...swin import SwinTransformer

Place = tuple[int, int]  # stage and block


@dataclass(frozen=True)
class Observation:
    """What a backbone gave, and what went into some of its blocks.

    Attributes:
        maps: Its outputs, (1, C, H, W), by their stage.
        tokens: What went into the blocks asked for: tokens (1, H * W, C) and their grid (H, W).
    """

    maps: dict[int, Tensor]
    tokens: dict[Place, tuple[Tensor, tuple[int, int]]]

    def of(self, places: Iterable[Place]) -> Observation:
        """The same with the inputs of these blocks alone."""
        return Observation(self.maps, {place: self.tokens[place] for place in places})


@torch.no_grad()
def observe(backbone: SwinTransformer, inputs: Tensor, places: Iterable[Place] = ()) -> Observation:
    """Runs a backbone once.

    Args:
        backbone: In evaluation mode.
        inputs: (1, 3, h, w), normalised.
        places: (stage, block) of the blocks whose inputs are wanted.

    Raises:
        ArgumentError: There is no such block, or it does not run; or an image that the backbone
            does not take.
    """
    places = list(places)
    for place in places:
        check_place(backbone, *place)
    tokens: dict[Place, tuple[Tensor, tuple[int, int]]] = {}

    def kept(place: Place) -> Any:
        def hook(module: Any, args: tuple) -> None:
            tokens[place] = (args[0].detach(), tuple(args[1]))

        return hook

    hooks = [
        # On the block, not within it: that would change how it runs.
        backbone.stages[stage].blocks[block].register_forward_pre_hook(kept((stage, block)))
        for stage, block in places
    ]
    try:
        outputs = backbone(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return Observation(dict(zip(sorted(backbone.out_indices), outputs, strict=True)), tokens)


def check_place(backbone: SwinTransformer, stage: int, block: int = 0) -> None:
    """Raises where a backbone has no such stage and block, or does not run it."""
    last = max(backbone.out_indices)
    if stage not in range(last + 1):
        raise ArgumentError(f'stage={stage} must be one of the stages that run, 0 to {last}')
    depth = len(backbone.stages[stage].blocks)
    if block not in range(depth):
        raise ArgumentError(f'block={block} must be one of stage {stage}, 0 to {depth - 1}')


def partners(backbone: SwinTransformer, stage: int, block: int | None = None) -> list[int]:
    """A block and its partner with the other windows, the unshifted one first.

    The last two of a stage if ``block`` is None. A last block of an odd number is alone.
    """
    check_place(backbone, stage, block or 0)
    depth = len(backbone.stages[stage].blocks)
    first = (depth - 1 if block is None else block) // 2 * 2
    if block is None and first + 1 >= depth > 1:
        first -= 2
    return [i for i in (first, first + 1) if i < depth]


def token_sides(backbone: SwinTransformer) -> list[tuple[int, int]]:
    """Of each stage, the (height, width) in pixels of the input that a token stands for."""
    return list(backbone.token_sides)

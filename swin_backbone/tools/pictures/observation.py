"""Runs a backbone once and records its outputs and the inputs of blocks."""

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
    """The outputs of a backbone, and the inputs of some of its blocks.

    Attributes:
        maps: The output (1, C, H, W) of each stage in ``out_indices``.
        tokens: The input of each requested block: tokens (1, H * W, C) and their grid (H, W).
    """

    maps: dict[int, Tensor]
    tokens: dict[Place, tuple[Tensor, tuple[int, int]]]

    def of(self, places: Iterable[Place]) -> Observation:
        """The same with only the inputs of these blocks."""
        return Observation(self.maps, {place: self.tokens[place] for place in places})


@torch.no_grad()
def observe(backbone: SwinTransformer, inputs: Tensor, places: Iterable[Place] = ()) -> Observation:
    """Runs a backbone once.

    Args:
        backbone: A backbone in evaluation mode.
        inputs: The normalised image, (1, 3, h, w).
        places: (stage, block) of the blocks whose inputs are recorded.

    Raises:
        ArgumentError: There is no such block, it does not run, or the backbone does not accept the
            image.
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
        # Hooks on the block itself; hooks on its submodules would prevent fused execution.
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
    """Raises if a backbone has no such block, or does not run it."""
    last = max(backbone.out_indices)
    if stage not in range(last + 1):
        raise ArgumentError(f'stage={stage} must be one of the stages that run, 0 to {last}')
    depth = len(backbone.stages[stage].blocks)
    if block not in range(depth):
        raise ArgumentError(f'block={block} must be one of stage {stage}, 0 to {depth - 1}')


def partners(backbone: SwinTransformer, stage: int, block: int | None = None) -> list[int]:
    """The pair of blocks with regular and shifted windows that contains ``block``.

    If ``block`` is None, the last pair of the stage. The last block of an odd number is alone.
    """
    check_place(backbone, stage, block or 0)
    depth = len(backbone.stages[stage].blocks)
    first = (depth - 1 if block is None else block) // 2 * 2
    if block is None and first + 1 >= depth > 1:
        first -= 2
    return [i for i in (first, first + 1) if i < depth]


def token_sides(backbone: SwinTransformer) -> list[tuple[int, int]]:
    """The (height, width) of a token of each stage, in pixels of the input."""
    return list(backbone.token_sides)

"""Lower bounds of the FLOPs and memory traffic of a pass of the backbone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swin_backbone import SwinTransformer
from swin_backbone.layers import PatchEmbed, PatchMerging, SwinBlock


class Floor(NamedTuple):
    """Floating-point operations and bytes of one pass."""

    flops: int
    bytes: int

    def seconds(self, peak: float, bandwidth: float) -> float:
        """The time with given FLOP/s and bytes/s, if both overlap perfectly."""
        return max(self.flops / peak, self.bytes / bandwidth)


def floor(arch: str, shape: tuple[int, ...], training: bool, element_size: int = 4) -> Floor:
    """The floor of inference, or of a forward and a backward pass.

    FLOPs are those of convolutions, linear layers and attention on padded windows; only the scores
    are recomputed in the backward pass. Bytes assume fused blocks, embeddings, mergings and output
    norms: each reads and writes its map once, and in the backward pass reads its input and one
    gradient and writes the other gradient. float32 parameters are read once per pass and their
    gradients are written.

    Args:
        arch: Variant of Swin.
        shape: (B, 3, H, W) of the images.
        training: Whether there is a backward pass.
        element_size: Bytes of an activation.
    """
    with torch.device('meta'):
        model, x = SwinTransformer(arch=arch, drop_path_rate=0.0), torch.empty(shape)
    elements = 0

    def count(module: nn.Module, inputs: tuple, output) -> None:
        nonlocal elements
        into = inputs[0].numel()
        out = (output[0] if isinstance(output, tuple) else output).numel()
        elements += into + out + (2 * into + out if training else 0)

    kinds = (PatchEmbed, SwinBlock, PatchMerging)
    for name, module in model.named_modules():
        if isinstance(module, kinds) or name in {f'norm{i}' for i in range(4)}:
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        outs = model(x)
        if training:
            sum(out.sum() for out in outs).backward()
    parameters = sum(4 * p.numel() for p in model.parameters()) * (3 if training else 1)
    return Floor(counter.get_total_flops(), elements * element_size + parameters)

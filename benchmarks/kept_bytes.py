"""Memory that a training step on a GPU keeps for its backward pass, counted without a GPU.

    python benchmarks/kept_bytes.py [--models tiny] [--shape 1 3 800 1344] [--out FOLDER]

Runs the forward pass on the CPU under bfloat16 autocast without launching the GPU's kernels. The
values are meaningless, but the saved tensors are those of a GPU. Counts the bytes of saved tensors
and outputs, except for parameters and casts of parameters. Writes kept_bytes.json and .md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import measure
import peers
import torch
from torch import Tensor, nn


def kept_bytes(model: nn.Module, x: Tensor, backend: str | None = None) -> int:
    """Bytes kept after ``model(x)``. ``backend`` is a backend of this package."""
    from swin_backbone.ops.backends import use_backend

    shapes = {parameter.shape for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() != 2 or not {tensor.shape, tensor.t().shape} & shapes:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    # Norms are float32 under autocast on GPUs, but not on CPUs.
    widened = model.patch_embed.norm.register_forward_pre_hook(lambda _, args: args[0].float())
    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast('cpu', torch.bfloat16),
        use_backend(backend),
    ):
        outs = model(x)
    widened.remove()
    kept |= {out.untyped_storage()._cdata: out for out in outs}
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Enables the ``triton`` backend on any machine, without launching its kernels."""
    from swin_backbone.ops import gpu
    from swin_backbone.ops.tokenwise import triton as tokenwise
    from swin_backbone.ops.window_attention import triton as attention

    with (
        mock.patch.object(gpu, 'why_not', lambda device, dtype: None),
        mock.patch.object(gpu, 'interpreted', lambda: False),
        mock.patch.object(tokenwise, '_launch', lambda *args, **options: None),
        mock.patch.object(attention, '_launch', lambda *args, **options: None),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--models', nargs='+', default=list(peers.WIDTHS), choices=peers.WIDTHS)
    parser.add_argument('--shape', nargs=4, type=int, default=(1, 3, 800, 1344))
    parser.add_argument('--out', type=Path, default=measure.OUT)
    options = parser.parse_args()
    x, rows = torch.randn(options.shape), {}
    for arch in options.models:
        mmdet = kept_bytes(peers.build('mmdet', arch), x)
        with without_kernels():
            ours = kept_bytes(peers.build('ours', arch), x, 'triton')
        numbers = {'mmdet, MB': mmdet / 1e6, 'ours, MB': ours / 1e6, 'ours / mmdet': ours / mmdet}
        rows[f'Swin-{arch[0].upper()}'] = numbers
        print(arch, numbers, flush=True)
    versions = ', '.join(f'{k} {v}' for k, v in peers.versions(['ours', 'mmdet']).items())
    title = f'Kept for the backward pass, {"×".join(map(str, options.shape))}, bfloat16 autocast'
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'kept_bytes.json').write_text(json.dumps(rows, indent=1) + '\n')
    report = '\n'.join([f'**{title}** ({versions})', '', *measure.table(rows)])
    (options.out / 'kept_bytes.md').write_text(report + '\n')
    print(report)


if __name__ == '__main__':
    main()

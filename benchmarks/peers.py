"""The backbones that are compared, built alike: Swin-T/B/L with window 7, random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

warnings.filterwarnings('ignore')

WIDTHS = {'tiny': (96, (2, 2, 6, 2)), 'base': (128, (2, 2, 18, 2)), 'large': (192, (2, 2, 18, 2))}
PACKAGES = {
    'ours': 'swin_backbone',
    'mmdet': 'mmdet',
    'mmseg': 'mmsegmentation',
    'timm': 'timm',
    'transformers': 'transformers',
}


def build(name: str, arch: str) -> nn.Module:
    """A peer's backbone whose forward gives four maps (or lists or tuples of them)."""
    width, depths = WIDTHS[arch]
    heads = tuple(width // 32 * 2**i for i in range(4))
    if name == 'ours':
        from swin_backbone import SwinTransformer

        return SwinTransformer(arch=arch)
    if name == 'mmdet':
        from mmdet.models.backbones.swin import SwinTransformer

        return SwinTransformer(embed_dims=width, depths=depths, num_heads=heads)
    if name == 'mmseg':
        from mmseg.models.backbones.swin import SwinTransformer

        return SwinTransformer(embed_dims=width, depths=depths, num_heads=heads)
    if name == 'timm':
        return _timm(width, depths, heads)
    return _transformers(width, depths, heads)


def _timm(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    _stand_in_for_torchvision()
    from timm.models.swin_transformer import SwinTransformer

    class Features(SwinTransformer):
        def forward(self, x):
            # Rebuilding its masks takes seconds; a user would do it once for each size.
            if self.patch_embed.img_size != tuple(x.shape[2:]):
                # Without a window given, timm takes an eighth of the map.
                self.set_input_size(tuple(x.shape[2:]), window_size=(7, 7))
            return self.forward_intermediates(x, intermediates_only=True)

    return Features(
        embed_dim=width, depths=depths, num_heads=heads, num_classes=0, strict_img_size=False
    )


def _transformers(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    from transformers import SwinBackbone, SwinConfig

    stages = [f'stage{i}' for i in range(1, 5)]
    config = SwinConfig(
        embed_dim=width, depths=list(depths), num_heads=list(heads), out_features=stages
    )

    class Features(SwinBackbone):
        def forward(self, x):
            return super().forward(x).feature_maps

    return Features(config)


def _stand_in_for_torchvision() -> None:
    """Operators that torchvision's Python part asks for where its compiled part is missing."""
    for name in ('nms', 'qnms'):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')


def versions(names: list[str]) -> dict[str, str]:
    """The packages' versions, and torch's."""
    found = {'torch': torch.__version__}
    for name in names:
        try:
            found[name] = version(PACKAGES[name])
        except PackageNotFoundError:
            found[name] = 'a checkout'
    return found


def forward(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Inference on a batch."""
    model.train(False)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def training_step(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Forward and backward pass of a batch."""
    model.train(True)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        sum(out.mean() for out in model(x)).backward()

    return run

"""Equal backbones of all compared packages: Swin-T/B/L with window 7 and random weights.

timm's and torchvision's have no output norms, which saves a little work.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
from apart import APART
from torch import nn

from swin_backbone.mmcv_ext.torchvision_ops import load as load_torchvision

warnings.filterwarnings('ignore')

WIDTHS = {'tiny': (96, (2, 2, 6, 2)), 'base': (128, (2, 2, 18, 2)), 'large': (192, (2, 2, 18, 2))}
# In the order of imports: transformers must not find the torchvision outside of the environment.
PACKAGES = {
    'ours': 'swin_backbone',
    'mmdet': 'mmdet',
    'mmseg': 'mmsegmentation',
    'transformers': 'transformers',
    'timm': 'timm',
    'torchvision': 'torchvision',
}


def build(name: str, arch: str) -> nn.Module:
    """A package's backbone, whose forward returns four maps."""
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
    others = {'timm': _timm, 'torchvision': _torchvision, 'transformers': _transformers}
    return others[name](width, depths, heads)


def _timm(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    _reach_those_apart()
    from timm.models.swin_transformer import SwinTransformer

    class Features(SwinTransformer):
        @torch.compiler.disable
        def resize(self, x):
            # By default timm sets the window to an eighth of the map.
            self.set_input_size(tuple(x.shape[2:]), window_size=(7, 7))

        def forward(self, x):
            # Rebuilding its masks takes seconds; users would do it once per size.
            if self.patch_embed.img_size != tuple(x.shape[2:]):
                self.resize(x)
            return self.forward_intermediates(x, intermediates_only=True)

    return Features(
        embed_dim=width, depths=depths, num_heads=heads, num_classes=0, strict_img_size=False
    )


def _torchvision(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> nn.Module:
    _reach_those_apart()
    from torchvision.models.swin_transformer import SwinTransformer

    class Features(SwinTransformer):
        def forward(self, x):
            outs = []
            for layer in self.features:  # patch embedding, then alternating blocks and merging
                x = layer(x)
                outs.append(x.permute(0, 3, 1, 2))
            return outs[1::2]

    return Features(
        patch_size=[4, 4],
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=[7, 7],
        num_classes=1,
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


@functools.cache
def _reach_those_apart() -> None:
    """Makes timm and torchvision outside of the environment importable, if not installed."""
    if importlib.util.find_spec('torchvision') is None:
        sys.path.append(str(APART))
        load_torchvision()


def versions(names: list[str]) -> dict[str, str]:
    """Versions of packages and of torch."""
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

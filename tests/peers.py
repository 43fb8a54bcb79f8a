"""Peers' own Swin Transformers, built in processes of their own.

``python tests/peers.py NAME FOLDER`` draws the weights of a peer's model at random and writes to
the folder a checkpoint as the peer does, an input, and the peer's features of it. It then loads the
``converted.*`` that it finds there into a small model of the peer, strictly, and writes that one's
features, and logits if it has a classifier.

timm, torchvision and mmpretrain live in a folder outside the environment, since torchvision has no
operators that fit a torch without CUDA: ``requirements/set_up.sh`` puts them there, and
``benchmarks/apart.py`` makes them importable.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / 'benchmarks'))

from apart import APART  # noqa: E402

from swin_backbone.mmcv_ext.torchvision_ops import load as load_torchvision  # noqa: E402

GEOMETRIES = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7),
    'small': dict(embed_dims=24, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4), window_size=4),
}
# Every map is larger than the window: on smaller ones, classifiers do not shift. The sides are odd
# in tokens at some stage and, where the peer pads pixels, in pixels.
SIZES = {'tiny': (232, 264), 'small': (140, 172)}
PADS_PIXELS = ('mmdet', 'mmpretrain', 'transformers', 'transformers-classifier')
PADS_PIXELS += ('mmpretrain-v2', 'transformers-v2', 'transformers-v2-classifier')
# timm pads after it has shifted, the official code before: they agree where nothing is padded.
SIZES_TIMM = {'tiny': (448, 448), 'small': (256, 384)}
# mmdet's T is compared with this package's in test_swin.py; the two of transformers share a model.
GEOMETRY = {'mmdet': 'small', 'transformers-classifier': 'small'}
GEOMETRY |= dict.fromkeys(('mmpretrain-v2', 'timm-v2', 'transformers-v2'), 'small')
GEOMETRY |= {'transformers-v2-classifier': 'small'}
# V2's further options, where the peer has them.
EXTRA_NORM_EVERY = {'mmpretrain-v2': 2}
PRETRAINED_WINDOWS = {'mmpretrain-v2': (6, 6, 6, 3), 'timm-v2': (6, 6, 6, 3)}
CLASSES = 10


def run(name: str, folder: Path) -> dict:
    """Runs this file for a peer and returns what it wrote of inputs, features and logits."""
    command = [sys.executable, '-W', 'ignore', __file__, name, str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT), environment.get('PYTHONPATH', '')])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / 'features.pth')


def geometry(name: str) -> str:
    """Whether a peer's own weights are drawn for ``'tiny'``, Swin-T, or for a smaller model."""
    return GEOMETRY.get(name, 'tiny')


def draw_input(name: str, geometry: str) -> Tensor:
    """An image for a peer."""
    height, width = (SIZES_TIMM if name.startswith('timm') else SIZES)[geometry]
    if name in PADS_PIXELS:
        height, width = height - 1, width - 3
    return torch.randn(1, 3, height, width, dtype=torch.float64)


class Mmdet:
    """mmdet's backbone, in a detector's file."""

    def __init__(self, geometry: dict) -> None:
        from mmdet.models.backbones.swin import SwinTransformer

        self.model = SwinTransformer(**geometry)

    def save(self, folder: Path) -> None:
        detector = {f'backbone.{k}': v for k, v in self.model.state_dict().items()}
        torch.save({'state_dict': detector, 'meta': {}}, folder / 'checkpoint.pth')

    def load(self, path: Path) -> None:
        self.model.load_state_dict(torch.load(path)['state_dict'], strict=True)

    def features(self, x: Tensor) -> list[Tensor]:
        return list(self.model(x))


class Mmpretrain(Mmdet):
    """mmpretrain's classifier."""

    def __init__(self, geometry: dict) -> None:
        reach_those_apart()
        hide_transformers()
        from mmpretrain.models import ImageClassifier

        width = geometry['embed_dims'] * 2 ** (len(geometry['depths']) - 1)
        self.classifier = ImageClassifier(
            backbone=self.backbone(geometry),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width),
        )
        self.model = self.classifier

    def backbone(self, geometry: dict) -> dict:
        return dict(
            type='mmpretrain.SwinTransformer',
            arch={k: geometry[k] for k in ('embed_dims', 'depths', 'num_heads')},
            window_size=geometry['window_size'],
            out_indices=(0, 1, 2, 3),
            pad_small_map=True,
        )

    def save(self, folder: Path) -> None:
        torch.save({'state_dict': self.model.state_dict(), 'meta': {}}, folder / 'checkpoint.pth')

    def load(self, path: Path) -> None:
        # A classifier's file has no norms of the earlier outputs: they do nothing here.
        for i in range(3):
            norm = getattr(self.classifier.backbone, f'norm{i}')
            nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
        own = {k: v for k, v in self.model.state_dict().items() if 'norm' in k.split('.')[1]}
        loaded = {**own, **torch.load(path)['state_dict']}
        self.check_loaded(*self.model.load_state_dict(loaded, strict=False))

    def check_loaded(self, missing: list[str], unexpected: list[str]) -> None:
        assert not missing and not unexpected

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(x, mode='tensor')

    def features(self, x: Tensor) -> list[Tensor]:
        return list(self.classifier.backbone(x))


class MmpretrainV2(Mmpretrain):
    """mmpretrain's classifier of V2."""

    def backbone(self, geometry: dict) -> dict:
        backbone = super().backbone(geometry)
        backbone['arch']['extra_norm_every_n_blocks'] = EXTRA_NORM_EVERY['mmpretrain-v2']
        pretrained = PRETRAINED_WINDOWS['mmpretrain-v2']
        name = 'mmpretrain.SwinTransformerV2'
        return {**backbone, 'type': name, 'pretrained_window_sizes': pretrained}

    def check_loaded(self, missing: list[str], unexpected: list[str]) -> None:
        # Its hook deletes the buffers from what is loaded.
        assert all('.relative_' in key for key in missing) and not unexpected


class Classifier:
    """A peer whose stages have no norm: their outputs are taken, and normalised without weights."""

    model: nn.Module
    stages: list[nn.Module]

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / 'checkpoint.pth')

    def load(self, path: Path) -> None:
        self.model.load_state_dict(torch.load(path), strict=True)

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x)

    def features(self, x: Tensor) -> list[Tensor]:
        outs: list[Tensor] = []
        hooks = [
            stage.register_forward_hook(lambda *args: outs.append(args[-1]))
            for stage in self.stages
        ]
        self.model(x)
        for hook in hooks:
            hook.remove()
        return [F.layer_norm(o, o.shape[-1:]).permute(0, 3, 1, 2) for o in outs]


class Timm(Classifier):
    options: Mapping[str, Any] = {}

    @property
    def cls(self) -> type:
        from timm.models.swin_transformer import SwinTransformer

        return SwinTransformer

    def __init__(self, geometry: dict) -> None:
        reach_those_apart()
        # The size decides where windows shrink; inputs may be of another.
        self.model = self.cls(
            img_size=256,
            embed_dim=geometry['embed_dims'],
            depths=geometry['depths'],
            num_heads=geometry['num_heads'],
            window_size=geometry['window_size'],
            num_classes=CLASSES,
            strict_img_size=False,
            **self.options,
        )
        self.stages = list(self.model.layers)


class TimmV2(Timm):
    options: Mapping[str, Any] = dict(pretrained_window_sizes=PRETRAINED_WINDOWS['timm-v2'])

    @property
    def cls(self) -> type:
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        return SwinTransformerV2


class Torchvision(Classifier):
    def options(self) -> dict[str, Any]:
        return {}

    def __init__(self, geometry: dict) -> None:
        reach_those_apart()
        from torchvision.models.swin_transformer import SwinTransformer

        self.model = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=geometry['embed_dims'],
            depths=list(geometry['depths']),
            num_heads=list(geometry['num_heads']),
            window_size=[geometry['window_size']] * 2,
            num_classes=CLASSES,
            **self.options(),
        )
        self.stages = [self.model.features[i] for i in (1, 3, 5, 7)]


class TorchvisionV2(Torchvision):
    def options(self) -> dict[str, Any]:
        from torchvision.models import swin_transformer

        return dict(
            block=swin_transformer.SwinTransformerBlockV2,
            downsample_layer=swin_transformer.PatchMergingV2,
        )


class Transformers:
    """transformers' backbone, in a folder as the library writes it."""

    def __init__(self, geometry: dict) -> None:
        self.config = self.config_cls(
            embed_dim=geometry['embed_dims'],
            depths=list(geometry['depths']),
            num_heads=list(geometry['num_heads']),
            window_size=geometry['window_size'],
            image_size=256,
            num_labels=CLASSES,
            out_features=['stage1', 'stage2', 'stage3', 'stage4'],
        )
        self.model = self.cls(self.config)

    @property
    def config_cls(self) -> type:
        import transformers

        return transformers.SwinConfig

    @property
    def cls(self) -> type:
        import transformers

        return transformers.SwinBackbone

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        (folder / 'model.safetensors').rename(folder / 'checkpoint.safetensors')
        torch.save(self.model.state_dict(), folder / 'in_memory.pth')

    def load(self, path: Path) -> None:
        self.config.save_pretrained(path.parent / 'loaded')
        path.rename(path.parent / 'loaded' / 'model.safetensors')
        self.model, report = self.cls.from_pretrained(
            path.parent / 'loaded', output_loading_info=True, dtype=torch.float64
        )
        # What a classifier's file may lack: the norms of a backbone's outputs.
        missing = [k for k in report['missing_keys'] if 'hidden_states_norms' not in k]
        assert not missing and not report['mismatched_keys'], report
        assert all('layernorm' in k or 'classifier' in k for k in report['unexpected_keys']), report
        self.model.eval()

    def features(self, x: Tensor) -> list[Tensor]:
        return list(self.model(x).feature_maps)


class TransformersClassifier(Transformers):
    """transformers' classifier; its stages have no norm."""

    @property
    def cls(self) -> type:
        import transformers

        return transformers.SwinForImageClassification

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x).logits

    def features(self, x: Tensor) -> list[Tensor]:
        outs = self.model.swin(
            x,
            always_partition=True,
            output_hidden_states=True,
            output_hidden_states_before_downsampling=True,
        ).reshaped_hidden_states[1:]
        maps = [out.permute(0, 2, 3, 1) for out in outs]
        return [F.layer_norm(o, o.shape[-1:]).permute(0, 3, 1, 2) for o in maps]


class TransformersV2(Transformers):
    """transformers' backbone of V2, whose outputs have no norm."""

    @property
    def config_cls(self) -> type:
        import transformers

        return transformers.Swinv2Config

    @property
    def cls(self) -> type:
        import transformers

        return transformers.Swinv2Backbone

    def features(self, x: Tensor) -> list[Tensor]:
        maps = [out.permute(0, 2, 3, 1) for out in self.model(x).feature_maps]
        return [F.layer_norm(o, o.shape[-1:]).permute(0, 3, 1, 2) for o in maps]


class TransformersV2Classifier(TransformersV2):
    """transformers' classifier of V2."""

    @property
    def cls(self) -> type:
        import transformers

        return transformers.Swinv2ForImageClassification

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x).logits

    def features(self, x: Tensor) -> list[Tensor]:
        outs: list[Tensor] = []

        def keep(stage: nn.Module, given: Any, returned: tuple) -> None:
            _, out, sizes = returned  # with the sizes before and after the patch merging
            outs.append(F.layer_norm(out, out.shape[-1:]).unflatten(1, sizes[:2]))

        hooks = [s.register_forward_hook(keep) for s in self.model.swinv2.encoder.layers]
        self.model(x)
        for hook in hooks:
            hook.remove()
        return [out.permute(0, 3, 1, 2) for out in outs]


PEERS = {
    'mmdet': Mmdet,
    'mmpretrain': Mmpretrain,
    'timm': Timm,
    'torchvision': Torchvision,
    'transformers': Transformers,
    'transformers-classifier': TransformersClassifier,
    'mmpretrain-v2': MmpretrainV2,
    'timm-v2': TimmV2,
    'torchvision-v2': TorchvisionV2,
    'transformers-v2': TransformersV2,
    'transformers-v2-classifier': TransformersV2Classifier,
}


def reach_those_apart() -> None:
    """Makes the peers in the folder importable."""
    if str(APART) not in sys.path:
        sys.path.insert(0, str(APART))
    load_torchvision()


@functools.cache
def hide_transformers() -> None:
    """Keeps mmpretrain from its language models, which need an old transformers."""
    import importlib_metadata

    find = importlib_metadata.distribution

    def find_others(name: str) -> importlib_metadata.Distribution:
        if name == 'transformers':
            raise importlib_metadata.PackageNotFoundError(name)
        return find(name)

    importlib_metadata.distribution = find_others


def build(name: str, geometry: str) -> Classifier:
    """A peer with every weight drawn at random, in float64 and evaluation mode."""
    peer = PEERS[name](GEOMETRIES[geometry])
    peer.model.double().eval()
    for parameter_name, parameter in peer.model.named_parameters():
        if 'norm' in parameter_name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=0.1)
    return peer


@torch.no_grad()
def main(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    peer = build(name, geometry(name))
    peer.save(folder)
    x = draw_input(name, geometry(name))
    written = dict(input=x, features=peer.features(x))

    peer = build(name, 'small')
    peer.load(next(folder.glob('converted.*')))
    x = draw_input(name, 'small')
    written |= dict(converted_input=x, converted_features=peer.features(x))
    if hasattr(peer, 'logits'):
        written['converted_logits'] = peer.logits(x)
    torch.save(written, folder / 'features.pth')


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))

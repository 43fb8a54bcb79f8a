"""Little files by the names that the documentation gives to its readers' own.

A folder of them is made once; commands are run in copies of it, whose files are links.
"""

from __future__ import annotations

import json
import os
import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from blocks import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from safetensors.torch import load_file, save_file
from small import SMALL, randomized
from torch import Tensor, nn

from swin_backbone import SwinTransformer
from swin_backbone.demo.scenes import prepare
from swin_backbone.weights import convert, convert_file
from swin_backbone.weights.distributed_checkpoints import rank_file, split

CONFIGS = ROOT / 'configs'
SCENES = dict(training=4, validation=2)
# Two iterations of two scenes, which are beside it; what it writes is called as the pages call it.
CONFIG = """
_base_ = {base!r}
_scenes = dict(training=4, validation=2)
train_dataloader = dict(batch_size=2, dataset=dict(scenes=_scenes))
val_dataloader = dict(batch_size=2, dataset=dict(scenes=_scenes))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = []
"""
RECIPE = '_base_ = {base!r}\n'


def make(folder: Path) -> Path:
    """Makes all stand-ins; the folder of downloads is ``downloads`` in it."""
    folder.mkdir()
    _write_configs(folder)
    prepare(folder / 'data/shapes', **SCENES)
    backbone = randomized(SwinTransformer(**SMALL))
    _write_checkpoints(folder, backbone)
    _write_layouts(folder, backbone)
    _write_tiny(folder, randomized(SwinTransformer(arch='tiny')))
    _write_pictures(folder)
    return folder


def linked(folder: Path, target: Path) -> Path:
    """The stand-ins in a folder of their own, whose files are links to them."""
    for file in (path for path in folder.rglob('*') if path.is_file()):
        link = target / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return target


def _write_configs(folder: Path) -> None:
    demo = {'config.py': 'demo_mask_rcnn_shapes.py', 'segmentor.py': 'demo_upernet_shapes.py'}
    for name, base in demo.items():
        (folder / name).write_text(CONFIG.format(base=str(CONFIGS / base)))
    base = str(CONFIGS / 'mask_rcnn_swin_t_1x_coco.py')
    (folder / 'my_config.py').write_text(RECIPE.format(base=base))
    window = 'model = dict(backbone=dict(window_size=12))\n'
    (folder / 'w12.py').write_text(RECIPE.format(base=base) + window)


def _write_checkpoints(folder: Path, backbone: nn.Module) -> None:
    """A detector's and a segmentor's, as mmengine saves them, and a folder of shards."""
    for name, config in (('epoch_12.pth', 'config.py'), ('iter_160000.pth', 'segmentor.py')):
        settings = Config.fromfile(folder / config)
        init_default_scope(settings.default_scope)
        model = MODELS.build(settings.model)
        torch.save(dict(meta={}, state_dict=model.state_dict()), folder / name)
    for work in ('config', 'my_config'):
        (folder / 'work_dirs' / work).mkdir(parents=True)
        os.link(folder / 'epoch_12.pth', folder / 'work_dirs' / work / 'epoch_12.pth')
    convert_file(
        folder / 'work_dirs/my_config/epoch_12.pth', folder / 'for_timm.safetensors', to='timm'
    )
    (folder / 'iter_4.pth').mkdir()
    for rank in range(2):
        content = dict(meta={}, state_dict=dict(backbone.state_dict()))
        split(content, rank, 2, lambda value, rank=rank: _rows(value, rank))
        torch.save(content, rank_file(folder / 'iter_4.pth', rank))


def _write_pictures(folder: Path) -> None:
    """An image, a scene and a detector of the demo, and the logs of two runs."""
    for scene in ('images/validation/00001.jpg', 'annotations/validation/00001.png'):
        file = folder / 'data/shapes' / scene
        os.link(file, file.with_stem('00015'))
    pixels = torch.randint(256, (300, 400, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(folder / 'street.jpg')
    detector = folder / 'work_dirs/demo/detector/iter_700.pth'
    detector.parent.mkdir(parents=True)
    os.link(folder / 'epoch_12.pth', detector)
    for number, run in enumerate('ab'):
        log = folder / 'work_dirs' / run / '20261125_120000/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        lines = [dict(loss=4 - number - i / 9, lr=1e-3, iter=i, step=i) for i in range(1, 9)]
        log.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))


def _rows(value: Any, rank: int) -> tuple[Tensor, int, tuple[int, ...]] | None:
    """The half of a tensor that is a rank's."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return None
    first = rank * ((len(value) + 1) // 2)
    last = len(value) if rank else (len(value) + 1) // 2
    return value[first:last].clone(), first, tuple(value.shape)


# By the layout that the pages say they are in.
LAYOUTS = {
    'b.safetensors': 'openmmlab',
    'swin_tiny.pth': 'mmpretrain',
    'swin_tiny_224_b16x64_300e_imagenet.pth': 'mmpretrain',
    'swin_tiny_patch4_window7_224.safetensors': 'timm',
    'swin_t-704ceda3.pth': 'torchvision',
    'swin-tiny/model.safetensors': 'transformers',
    'hf.safetensors': 'transformers',
    'model_final.pth': 'detectron2',
}


def _write_layouts(folder: Path, backbone: nn.Module) -> None:
    source = folder / 'a.pth'
    torch.save(backbone.state_dict(), source)
    for name in ('mask_rcnn_swin-t.pth', 'mine.pth'):
        os.link(source, folder / name)
    (folder / 'swin-tiny').mkdir()
    for name, layout in LAYOUTS.items():
        convert_file(source, folder / name, to=layout)
    # The average of a training checkpoint of timm's, with its arguments; one of several backbones.
    weights = backbone.state_dict()
    average: Mapping[str, Tensor] = {key: value + 1 for key, value in weights.items()}
    arguments = Namespace(lr=0.001, data_dir=Path('data'))
    timm = dict(state_dict=weights, state_dict_ema=average, args=arguments, epoch=300)
    torch.save(timm, folder / 'checkpoint-300.pth.tar')
    torch.save(dict(model_state_dict=weights, optimizer={}, args=arguments), folder / 'last.ckpt')
    inner = {f'backbone.{key}': value for key, value in weights.items()}
    torch.save(dict(teacher=inner, student=dict(inner)), folder / 'distilled.pth')
    official = convert(weights, to='microsoft')
    arrays = {f'backbone.{key}': value.numpy() for key, value in official.items()}
    content = dict(model=arrays, __author__='third_party', matching_heuristics=True)
    (folder / 'model_final_mask2former.pkl').write_bytes(pickle.dumps(content))
    _write_shards(folder / 'swin-tiny/model.safetensors', folder / 'swin-large')


def _write_shards(file: Path, folder: Path) -> None:
    tensors, names = load_file(file), {}
    folder.mkdir()
    for number in range(2):
        part = {key: tensors[key] for key in sorted(tensors)[number::2]}
        names |= dict.fromkeys(part, f'model-{number}.safetensors')
        save_file(part, folder / f'model-{number}.safetensors')
    index = dict(metadata={}, weight_map=names)
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


# Of a whole Swin-T, as the release has it; the others are small.
TINY = ('official.pth', 'swin_tiny_patch4_window7_224.pth')


def _write_tiny(folder: Path, tiny: nn.Module) -> None:
    """A Swin-T as the official release has it, with a classifier and one norm: as downloaded."""
    weights = convert(tiny.state_dict(), to='microsoft')
    weights = {key: value for key, value in weights.items() if not key.startswith('norm')}
    weights |= {'norm.weight': torch.ones(768), 'norm.bias': torch.zeros(768)}
    weights |= {'head.weight': torch.zeros(1000, 768), 'head.bias': torch.zeros(1000)}
    download = folder / 'downloads' / 'swin_tiny_patch4_window7_224.pth'
    download.parent.mkdir()
    torch.save(dict(model=weights), download)
    for name in TINY:
        os.link(download, folder / name)

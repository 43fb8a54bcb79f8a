"""What test_classification.py runs in a process of its own: everything that needs mmpretrain.

Float64 logits agree with the official definition and with every peer's to 1e-10 of their size.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import runpy
import sys
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import official
import official_v2
import peers
import pytest
import torch
import v2_files
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier
from mmpretrain.models.backbones import SwinTransformer as Theirs
from mmpretrain.models.backbones import SwinTransformerV2 as TheirsV2
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from small import randomized
from torch.nn import functional as F

from swin_backbone import (
    ArgumentError,
    CheckpointError,
    SwinTransformer,
    SwinTransformerV2,
    classification,
    configs_dir,
)
from swin_backbone.classification import (
    ClassificationSwinTransformer,
    ClassificationSwinTransformerV2,
)
from swin_backbone.engine.check_classes import check_classes
from swin_backbone.engine.check_data import DataCheckingRunner
from swin_backbone.tools.data_report import report
from swin_backbone.tools.pictures.annotations import draw_sample
from swin_backbone.tools.pictures.cam import Target, explain
from swin_backbone.tools.pictures.subject import load_subject
from swin_backbone.weights import convert

STOCK = Path(mmpretrain.__file__).parent / '.mim'
STOCK_CONFIGS = sorted((STOCK / 'configs/swin_transformer').glob('*.py'))
# Less those of ImageNet-21K, which mmpretrain 1.2 itself cannot read: they change a pipeline that
# their base does not have.
STOCK_V2 = sorted((STOCK / 'configs/swin_transformer_v2').glob('*in1k*.py'))
OURS = sorted(path.stem for path in configs_dir().glob('*_imagenet.py'))
# In millions, as published.
PARAMETERS = {'t': 28, 's': 50, 'b': 88, 'l': 197}
SMALL = dict(embed_dims=24, depths=(2, 1, 3, 2), num_heads=(1, 2, 3, 4))
SIDE = 128  # the last stage's map is a window of 4 then
FORMATS = ('microsoft', 'timm', 'torchvision', 'transformers', 'mmpretrain')

init_default_scope('mmpretrain')


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def classifier(backbone=None, classes: int = 10, width: int = 192, **options) -> ImageClassifier:
    """A small one, with this package's backbone unless one is given."""
    backbone = backbone or dict(type='SwinTransformer', arch=SMALL, window_size=4)
    head = dict(type='LinearClsHead', num_classes=classes, in_channels=width)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head, **options)
    return MODELS.build(model)


def official_weights() -> dict:
    return official.random_state_dict(24, (2, 1, 3, 2), (1, 2, 3, 4), 4, classification=True)


def official_logits(weights: dict, x: torch.Tensor, window: int) -> torch.Tensor:
    last = official.forward(weights, x, window, classification=True)[-1].permute(0, 2, 3, 1)
    last = F.layer_norm(last, last.shape[-1:], weights['norm.weight'], weights['norm.bias'])
    return F.linear(last.mean((1, 2)), weights['head.weight'], weights['head.bias'])


@torch.no_grad()
def logits(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    model = model.to(x.dtype)
    model.eval()  # which returns None in mmpretrain's backbones
    return model(x, mode='tensor') if isinstance(model, ImageClassifier) else model(x)


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def draw(*sides: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, *(sides or (SIDE, SIDE)), dtype=dtype)


# --- registry -------------------------------------------------------------------------------------


def test_registries_hold_their_frameworks_arguments():
    from mmdet.registry import MODELS as DET
    from mmseg.registry import MODELS as SEG

    assert MODELS.get('SwinTransformerV2') is ClassificationSwinTransformerV2
    for name in ('SwinTransformer', 'SwinBackbone'):
        assert MODELS.get(name) is ClassificationSwinTransformer
        assert DET.get(name) is SEG.get(name) is SwinTransformer
    assert DET.get('mmpretrain.SwinTransformer') is ClassificationSwinTransformer


def test_ours_are_instances_of_mmpretrains_classes():
    from mmpretrain.models.backbones import swin_transformer as v1
    from mmpretrain.models.backbones import swin_transformer_v2 as v2

    first, second = MODELS.get('SwinTransformer')(SMALL), MODELS.get('SwinTransformerV2')(SMALL)
    assert isinstance(first, v1.SwinTransformer) and not isinstance(first, v2.SwinTransformerV2)
    assert isinstance(second, v2.SwinTransformerV2) and not isinstance(second, v1.SwinTransformer)
    assert not isinstance(SwinTransformer(), v1.SwinTransformer)  # whose arguments are others
    for model, theirs, names in [
        (first, v1, ('SwinBlock', 'SwinBlockSequence', 'PatchEmbed', 'ShiftWindowMSA', 'FFN')),
        (second, v2, ('SwinBlockV2', 'SwinBlockV2Sequence', 'WindowMSAV2', 'ShiftWindowMSA')),
    ]:
        for name in (*names, 'PatchMerging'):
            assert any(isinstance(m, getattr(theirs, name)) for m in model.modules()), name


# --- whole classifiers' files ---------------------------------------------------------------------


@pytest.fixture
def file(request, tmp_path) -> tuple[dict, Path]:
    """Official weights of a small classifier, and a file of them in the layout asked for."""
    weights = official_weights()
    return weights, written(convert(weights, request.param), request.param, tmp_path)


def written(converted: dict, layout: str, folder: Path) -> Path:
    """A file of weights, as the layout's owner has it."""
    if layout == 'transformers':
        path = folder / 'model.safetensors'
        save_file({k: v.contiguous() for k, v in converted.items()}, path)
        return path
    container = dict(microsoft='model', mmpretrain='state_dict').get(layout)
    path = folder / 'checkpoint.pth'
    torch.save({container: converted} if container else converted, path)
    return path


@pytest.mark.parametrize('file', FORMATS, indirect=True)
@pytest.mark.parametrize('size', [(SIDE, SIDE), (140, 172)])
def test_any_layouts_file_gives_the_official_logits(file, size):
    weights, path = file
    model, x = classifier().double(), draw(*size)
    load_checkpoint(model, str(path), strict=True)  # as --checkpoint and load_from
    assert_same(logits(model, x), official_logits(weights, x, 4))


@pytest.mark.parametrize('file', FORMATS, indirect=True)
def test_as_init_cfg_of_a_classifier(file):
    weights, path = file
    model = classifier(init_cfg=dict(type='Pretrained', checkpoint=str(path))).double()
    model.init_weights()
    x = draw()
    assert_same(logits(model, x), official_logits(weights, x, 4))


SMALL_V2 = {k: v for k, v in v2_files.GEOMETRY.items() if k != 'window_size'}


@pytest.mark.parametrize('layout', FORMATS)
def test_any_layouts_file_of_v2_gives_the_official_logits(layout, tmp_path):
    weights = v2_files.random_state_dict()
    path = written(convert(weights, layout, window_size=4), layout, tmp_path)
    model = classifier(dict(type='SwinTransformerV2', arch=SMALL_V2, window_size=4)).double()
    load_checkpoint(model, str(path), strict=True)
    neutral = convert(weights, 'openmmlab')
    for name in ('weight', 'bias'):
        neutral[f'norm3.{name}'] = weights[f'norm.{name}']
    for size in [(SIDE, SIDE), (140, 172)]:
        x = draw(*size)
        last = official_v2.forward(neutral, x, (4, 4, 4, 4))[-1]
        expected = F.linear(last.mean((2, 3)), weights['head.weight'], weights['head.bias'])
        assert_same(logits(model, x), expected)


def test_v2_and_mmpretrains_own(tmp_path):
    arguments = dict(arch=dict(SMALL_V2, extra_norm_every_n_blocks=2), window_size=[4, 4, 4, 2])
    arguments['pretrained_window_sizes'] = [3, 3, 3, 2]
    ours = classifier(dict(type='SwinTransformerV2', **arguments)).double()
    theirs = randomized(classifier(TheirsV2(img_size=SIDE, **arguments)).double())
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'theirs.pth')
    load_checkpoint(ours, str(tmp_path / 'theirs.pth'), strict=True)
    for size in [(SIDE, SIDE), (140, 172)]:
        x = draw(*size)
        assert_same(logits(ours, x), logits(theirs, x))


STAGES = (0, 1, 2, 3)


def test_v2s_modules_are_mmpretrains():
    with torch.device('meta'):
        ours = SwinTransformerV2(arch='tiny', window_size=8)
    theirs = TheirsV2('tiny', out_indices=STAGES)
    shapes = [{k: (v.shape, v.dtype) for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    of_either = [
        {name: m.drop_prob for name, m in model.named_modules() if isinstance(m, DropPath)}
        for model in (ours, theirs)
    ]
    assert len(of_either[0]) == 24 and of_either[0] == of_either[1]
    # Which mmdet calls adap_padding.
    ours, theirs = (
        {k: m for k, m in model.stages.named_modules() if not k.endswith('padding')}
        for model in (ours, theirs)
    )
    assert ours.keys() == theirs.keys()
    for i in map(str, STAGES):
        assert ours[i].out_channels == theirs[i].out_channels


def test_v2s_buffers_are_mmpretrains():
    arguments = dict(arch=SMALL_V2 | dict(extra_norm_every_n_blocks=0), window_size=[4, 4, 4, 2])
    arguments |= dict(pretrained_window_sizes=[3, 3, 3, 2], out_indices=STAGES)
    ours, theirs = ClassificationSwinTransformerV2(**arguments), TheirsV2(**arguments)
    buffers = dict(ours.named_buffers())
    assert buffers.keys() == dict(theirs.named_buffers()).keys()
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)


@pytest.mark.parametrize('whole', [False, True], ids=['backbone', 'classifier'])
def test_stock_mmpretrain_opens_our_files_of_v2(whole, tmp_path):
    arguments = dict(arch=SMALL_V2 | dict(extra_norm_every_n_blocks=2), window_size=[4, 4, 4, 2])
    if not whole:
        arguments['out_indices'] = STAGES
    ours, theirs = ClassificationSwinTransformerV2(**arguments), TheirsV2(**arguments)
    if whole:
        ours = classifier(dict(type='SwinTransformerV2', **arguments))
        theirs = classifier(theirs)
    randomized(ours).double()
    torch.save(dict(state_dict=ours.state_dict(), meta={}), tmp_path / 'ours.pth')
    with torch.no_grad():
        for parameter in theirs.double().parameters():
            parameter.fill_(torch.nan)  # what is not loaded cannot go unseen
    load_checkpoint(theirs, str(tmp_path / 'ours.pth'))
    assert all(p.isfinite().all() for p in theirs.parameters())
    for size in [(SIDE, SIDE), (140, 172)]:
        x = draw(*size)
        found, expected = logits(theirs, x), logits(ours, x)
        pairs = [(found, expected)] if whole else list(zip(found, expected, strict=True))
        assert len(pairs) == (1 if whole else 4)
        for other, mine in pairs:
            assert_same(other, mine)


def test_in_memory_with_all_that_a_training_checkpoint_holds():
    weights = official_weights()
    model, x = classifier().double(), draw()
    model.load_state_dict({'model': weights, 'epoch': 299, 'optimizer': {'state': {}}})
    assert_same(logits(model, x), official_logits(weights, x, 4))


def test_swin_t_in_float32():
    weights = official.random_state_dict(
        96, (2, 2, 6, 2), (3, 6, 12, 24), window=7, classification=True
    )
    weights = {k: v if 'norm' in k else v / 4 for k, v in weights.items()}
    model = classifier(dict(type='SwinTransformer', arch='tiny'), width=768)
    model.load_state_dict(weights)
    x = draw(224, 224, dtype=torch.float32)
    expected = official_logits(weights, x.double(), 7)
    assert 0.1 < expected.abs().max() < 100
    assert (logits(model, x) - expected).abs().max() < 1e-4


def timm(side: int, window: int, arch: dict) -> torch.nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    arch = dict(depths=arch['depths'], num_heads=arch['num_heads'], embed_dim=arch['embed_dims'])
    return SwinTransformer(img_size=side, window_size=window, num_classes=10, **arch)


def torchvision(side: int, window: int, arch: dict) -> torch.nn.Module:
    return peers.Torchvision(dict(arch, window_size=window)).model


@pytest.mark.parametrize('peer', [timm, torchvision])
@pytest.mark.parametrize(
    ('side', 'window', 'arch', 'backbone'),
    [
        (SIDE, 4, SMALL, dict(arch=SMALL, window_size=4)),
        (224, 7, peers.GEOMETRIES['tiny'], dict(arch='tiny')),
    ],
    ids=['small', 'tiny'],
)
def test_peers_classifiers_and_ours(peer, side, window, arch, backbone):
    theirs = randomized(peer(side, window, arch)).double()
    ours = classifier(dict(type='SwinTransformer', **backbone), width=8 * arch['embed_dims'])
    ours.double().load_state_dict(theirs.state_dict())
    x = draw(side, side)
    assert_same(logits(ours, x), logits(theirs, x))


def test_a_backbones_own_file_is_the_error_that_it_is_for_detectors():
    weights = {k: v for k, v in official_weights().items() if not k.startswith('head.')}
    with pytest.raises(CheckpointError, match='init_cfg'):
        classifier().load_state_dict(weights, strict=False)


def test_backbone_takes_the_classifiers_norm(tmp_path):
    weights = official_weights()
    torch.save({'model': weights}, tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    model = classifier(dict(type='SwinTransformer', arch=SMALL, window_size=4, init_cfg=init_cfg))
    model.init_weights()
    torch.testing.assert_close(model.backbone.norm3.weight, weights['norm.weight'].float())


def test_other_number_of_classes_is_named():
    weights = official_weights()
    with pytest.raises(CheckpointError, match=r'10 classes, the model 7 .*init_cfg'):
        check_classes({'model': weights}, classifier(classes=7))
    check_classes({'model': weights}, classifier())
    check_classes({'model': weights}, torch.nn.Linear(1, 1))
    check_classes({'other': torch.zeros(1)}, classifier(classes=7))
    backbone = {k: v for k, v in weights.items() if not k.startswith('head.')}
    check_classes({'model': backbone}, classifier())
    with pytest.raises(CheckpointError, match=r'has no classifier, and the model .* 10 classes'):
        check_classes({'model': backbone}, classifier(), needed=True)
    wrapped = MODELS.build(dict(type='AverageClsScoreTTA', module=classifier(classes=7)))
    with pytest.raises(CheckpointError, match='10 classes'):
        check_classes({'model': weights}, wrapped)


# --- mmpretrain's own -----------------------------------------------------------------------------


THREE = dict(embed_dims=24, depths=(2, 1, 2), num_heads=(1, 2, 3))


def both(**arguments) -> tuple[ImageClassifier, ImageClassifier]:
    """This package's classifier and mmpretrain's, with the same random weights in float64."""
    ours = classifier(dict(type='SwinTransformer', **arguments)).double()
    theirs = randomized(classifier(Theirs(**arguments)).double())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    randomized(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        dict(stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2, attn_cfgs=dict(qkv_bias=False)))),
        dict(stage_cfgs=[dict(downsample_cfg=dict(kernel_size=2))] * 4, norm_cfg=None),
        dict(norm_cfg=dict(type='LN', eps=0.1), out_indices=(1, 3)),
        dict(use_abs_pos_embed=True, img_size=SIDE),
        dict(pad_small_map=True),
        dict(drop_rate=0.1, interpolate_mode='bicubic', norm_eval=True, with_cp=True),
        dict(patch_size=2, patch_cfg=dict(norm_cfg=dict(type='LN'))),
    ],
    ids=lambda arguments: ','.join(arguments) or 'defaults',
)
def test_arguments_mean_what_they_do_in_mmpretrain(arguments):
    ours, theirs = both(arch=SMALL, window_size=4, **arguments)
    # mmpretrain resizes position embeddings in float32.
    resized = 1e-6 if 'use_abs_pos_embed' in arguments else 1e-10
    for size, tolerance in [((SIDE, SIDE), 1e-10), ((140, 172), resized)]:
        x = draw(*size)
        assert_same(logits(ours, x), logits(theirs, x), tolerance)


@pytest.mark.parametrize('path', STOCK_CONFIGS, ids=lambda path: path.stem)
def test_stock_configs_with_our_backbone(path, monkeypatch):
    # Which mmpretrain reads, also where the model is on the meta device.
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    config = Config.fromfile(path).model
    config.backbone.init_cfg = None
    with torch.device('meta'):
        ours = MODELS.build(config)
        settings = {k: v for k, v in config.backbone.items() if k not in ('type', '_scope_')}
        theirs = Theirs(**settings)
    assert type(ours.backbone) is ClassificationSwinTransformer
    shapes = {k: v.shape for k, v in ours.backbone.state_dict().items()}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items()}

    settings['arch'] = dict(embed_dims=8, depths=(2, 1, 2, 2), num_heads=(1, 1, 2, 2))
    ours = classifier(dict(type='SwinTransformer', **settings), width=64)
    theirs = randomized(classifier(Theirs(**settings), width=64)).double()
    ours.double().load_state_dict(theirs.state_dict(), strict=True)
    for size in [(settings['img_size'],) * 2, (settings['img_size'] + 36,) * 2]:
        x = draw(*size)[:1]
        assert_same(logits(ours, x), logits(theirs, x))


@pytest.mark.parametrize('path', STOCK_V2, ids=lambda path: path.stem)
def test_stock_configs_of_v2_with_our_backbone(path):
    config = Config.fromfile(path).model
    with torch.device('meta'):
        model = MODELS.build(config)
    assert type(model.backbone) is ClassificationSwinTransformerV2
    side, classes = config.backbone.img_size, config.head.num_classes
    assert model(torch.empty(1, 3, side, side, device='meta')).shape == (1, classes)


SMALL_FOR_V2 = dict(SMALL, extra_norm_every_n_blocks=0)
KINDS = [
    (ClassificationSwinTransformer, Theirs, SMALL),
    (ClassificationSwinTransformerV2, TheirsV2, SMALL_FOR_V2),
]


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
@pytest.mark.parametrize('outputs', [(0, 1, 2, 3), (1, 3), (3,)])
@pytest.mark.parametrize('stages', [-1, 0, 1, 2, 3])
@pytest.mark.parametrize('positions', [False, True])
def test_freezes_what_mmpretrain_freezes(ours, theirs, arch, outputs, stages, positions):
    arguments = dict(window_size=4, drop_rate=0.1, out_indices=outputs)
    arguments |= dict(frozen_stages=stages, use_abs_pos_embed=positions)
    ours, theirs = ours(arch, **arguments), theirs(arch, **arguments)
    ours.train(), theirs.train()
    assert ours.frozen_stages == theirs.frozen_stages
    assert what_trains(ours) == what_trains(theirs)


def what_trains(model: torch.nn.Module) -> tuple[dict, dict]:
    """Which parameters have gradients, and which of the modules that both have are training."""

    # What no output depends on has no parameters here.
    parameters = {k: p.requires_grad for k, p in model.named_parameters()}
    kinds = torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d, torch.nn.ModuleList
    modules = {
        k: m.training
        for k, m in model.named_modules()
        if isinstance(m, kinds) or k == 'drop_after_pos'
    }
    return parameters, modules


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
def test_arguments_have_mmpretrains_order(ours, theirs, arch):
    names = list(inspect.signature(theirs).parameters)
    orders = {Theirs: classification.ORDER, TheirsV2: classification.ORDER_V2}
    assert list(orders[theirs]) == names


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
def test_attributes_are_mmpretrains(ours, theirs, arch):
    arguments = dict(img_size=(30, 22), use_abs_pos_embed=True, window_size=2)
    ours, theirs = ours(arch, **arguments), theirs(arch, **arguments)
    names = {name for name in vars(theirs) if not name.startswith('_')} - {'training', 'init_cfg'}
    names |= {'num_extra_tokens'}
    assert {'depths', 'patch_resolution'} <= names
    for name in names:
        found, expected = getattr(ours, name), getattr(theirs, name)
        if isinstance(expected, dict | list | tuple):
            found, expected = repr(found), repr(expected)
            found, expected = (text.translate(BRACKETS) for text in (found, expected))
        assert found == expected, name
    assert ours.absolute_pos_embed.shape == theirs.absolute_pos_embed.shape
    for name in ('t', 'tiny', 'small', 'base', 'l'):
        assert ours.arch_zoo[name] == theirs.arch_zoo[name]


BRACKETS = str.maketrans('()', '[]')


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
@pytest.mark.parametrize('size', [(128, 96), (96, 160), (128, 128), (128, 160)])
def test_small_maps_are_refused_where_mmpretrain_refuses(ours, theirs, arch, size):
    found = []
    for model in (ours(arch, window_size=4), theirs(arch, window_size=4)):
        model.eval()  # of which theirs returns nothing
        try:
            found.append(model(draw(*size, dtype=torch.float32))[0].shape)
        except AssertionError as error:
            found.append(re.search(r'the window *size \(4\)', str(error))[0])
    assert found[0] == found[1]
    assert isinstance(found[0], str) == (min(size) < 128)


INITIALISERS = dict(
    none=None,
    empty=[],
    convolutions=dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='linear'),
    list=[
        dict(type='TruncNormal', layer='Linear', std=0.5, bias=0.3),
        dict(type='Constant', layer='LayerNorm', val=0.7, bias=0.2),
    ],
    override=dict(
        type='Normal',
        layer='Conv2d',
        bias=2.0,
        override=dict(type='Constant', name='patch_embed', val=3.0, bias=1.0),
    ),
)


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
@pytest.mark.parametrize('init_cfg', INITIALISERS.values(), ids=INITIALISERS)
def test_first_weights_are_mmpretrains(ours, theirs, arch, init_cfg):
    models = [kind(arch, use_abs_pos_embed=True, init_cfg=init_cfg) for kind in (ours, theirs)]
    for model in models:
        model.init_weights()
    found, expected = (dict(model.named_parameters()) for model in models)
    if not init_cfg and ours is ClassificationSwinTransformerV2:
        for name in [k for k in found if k.endswith(('norm1.weight', 'norm2.weight'))]:
            if 'blocks' in name:  # at first each block is the identity, as officially
                assert not found.pop(name).any() and (expected.pop(name) == 1).all()
    for name in found.keys() & expected.keys():
        deviation, right = (p.std(correction=0) for p in (found[name], expected[name]))
        assert abs(deviation - right) <= 0.4 * right + 1e-6, name
        far = (found[name].mean() - expected[name].mean()).abs()
        assert far <= 6 * right / found[name].numel() ** 0.5 + 1e-6, name


def test_weights_of_layers_are_the_classifiers_to_draw():
    initialisers = [
        dict(type='TruncNormal', layer='Linear', std=0.5, bias=0.3),
        dict(type='Constant', layer='LayerNorm', val=0.7, bias=0.2),
    ]
    for version, first in (('', 0.7), ('V2', 0.0)):
        backbone = dict(type=f'SwinTransformer{version}', arch=SMALL)
        model = classifier(backbone, init_cfg=initialisers)
        model.init_weights()
        block = model.backbone.stages[1].blocks[0]
        assert 0.4 < block.attn.w_msa.qkv.weight.std() < 0.6
        assert (block.ffn.layers[1].bias == 0.3).all() and (
            model.backbone.norm3.weight == 0.7
        ).all()
        assert (block.norm2.weight == first).all()  # V2's blocks are the identity at first


@pytest.mark.parametrize('ours, theirs, arch', KINDS)
@pytest.mark.parametrize('evaluates', [False, True])
def test_batch_norms_are_mmpretrains(ours, theirs, arch, evaluates):
    settings = dict(block_cfgs=dict(norm_cfg=dict(type='BN')))
    arguments = dict(norm_cfg=dict(type='BN'), stage_cfgs=settings, norm_eval=evaluates)
    found = []
    for kind in (ours, theirs):
        model = kind(arch, **arguments)
        model.init_weights()
        model.train()
        norms = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        found.append({k: (m.num_features, m.training) for k, m in norms.items()})
        with pytest.raises((ValueError, AssertionError)):  # neither can normalise tokens so
            model(torch.randn(1, 3, 256, 256))
    assert found[0] == found[1] and len(found[0]) == 17


def test_layer_wise_decay_of_mmpretrain():
    def groups(model: torch.nn.Module) -> dict:
        wrapper = dict(
            type='OptimWrapper',
            constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=dict(layer_decay_rate=0.5),
        )
        names = {id(p): name for name, p in model.named_parameters()}
        optimizer = build_optim_wrapper(model, wrapper).optimizer
        return {
            names[id(p)]: (group['lr'], group['weight_decay'])
            for group in optimizer.param_groups
            for p in group['params']
        }

    ours, theirs = both(arch=SMALL, window_size=4)
    assert groups(ours) == groups(theirs)


# --- the configs ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory) -> Path:
    """Two images of each of two classes to train on, and as many to test on."""
    root = tmp_path_factory.mktemp('imagenet')
    images = np.random.default_rng(0).integers(0, 255, (4, 40, 52, 3), dtype=np.uint8)
    (root / 'meta').mkdir()
    for phase in ('train', 'val'):
        (root / phase).mkdir()
        for i, image in enumerate(images):
            cv2.imwrite(str(root / phase / f'{i}.png'), image)
        (root / 'meta' / f'{phase}.txt').write_text('0.png 0\n1.png 1\n2.png 0\n3.png 1\n')
    return root


def load(name: str) -> Config:
    return Config.fromfile(configs_dir() / f'{name}.py')


def side_of(name: str) -> int:
    return 384 if '384' in name else 256 if name.startswith('swinv2') else 224


@pytest.mark.parametrize('name', OURS)
def test_config_builds_what_was_published(name, monkeypatch):
    monkeypatch.setenv('IMAGENET_ROOT', '/elsewhere')
    config = load(name)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6) == PARAMETERS[name.split('_')[1]]
    side = side_of(name)
    windows = [stage.blocks[0].attn.window_size for stage in model.backbone.stages]
    assert windows[-1] == side // 32  # the last map is a window, which is not shifted
    named = re.search(r'w(\d+)', name)
    assert set(windows[:-1]) == {int(named[1]) if named else side // 32}
    assert model(torch.empty(1, 3, side, side, device='meta')).shape == (1, 1000)
    for phase in ('train', 'val', 'test'):
        assert config[f'{phase}_dataloader'].dataset.data_root == '/elsewhere'
    processes, updates = 8, config.optim_wrapper.get('accumulative_counts', 1)
    batch = config.train_dataloader.batch_size * processes
    assert batch * updates == 1024 and config.auto_scale_lr.base_batch_size == batch


@pytest.mark.parametrize('name', OURS)
def test_pipelines(name, imagenet, monkeypatch):
    monkeypatch.setenv('IMAGENET_ROOT', str(imagenet))
    from mmpretrain.registry import DATASETS

    config, side = load(name), side_of(name)
    for phase in ('train', 'test'):
        data = DATASETS.build(config[f'{phase}_dataloader'].dataset)
        assert [data[i]['data_samples'].gt_label.item() for i in range(4)] == [0, 1, 0, 1]
        assert data[0]['inputs'].shape == (3, side, side)


def run_tool(name: str, *words: str | Path) -> None:
    """mmpretrain's own script, as mim runs it."""
    argv, sys.argv = sys.argv, [name, *map(str, words)]
    try:
        runpy.run_path(str(STOCK / 'tools' / f'{name}.py'), run_name='__main__')
    finally:
        sys.argv = argv


METRICS = ('--out-item', 'metrics')
# A config on four images, with a little backbone of its variant's window.
REDUCED = """
_base_ = '{config}'
arch = dict(_delete_=True, embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
model = dict(
    backbone=dict(arch=arch, init_cfg=None), head=dict(in_channels=64, num_classes=2)
)
data_preprocessor = dict(num_classes=2)
load_from = None
data = dict(metainfo=dict(classes=['a', 'b']))
train_dataloader = dict(batch_size=4, num_workers=0, dataset=data)
val_dataloader = dict(batch_size=2, num_workers=0, dataset=data)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
param_scheduler = []
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
work_dir = 'work'
"""


@pytest.mark.parametrize('name', OURS)
def test_config_trains_and_tests(name, imagenet, tmp_path, monkeypatch):
    monkeypatch.setenv('IMAGENET_ROOT', str(imagenet))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / 'reduced.py'
    config.write_text(REDUCED.format(config=configs_dir() / f'{name}.py'))
    started = []
    monkeypatch.setattr(DataCheckingRunner, 'setup_env', spy(started, Runner.setup_env))
    run_tool('train', config, '--no-pin-memory', '--no-persistent-workers')
    run_tool('test', config, 'work/epoch_1.pth', '--no-pin-memory', '--out', 'out.json', *METRICS)
    assert 0 <= json.loads(Path('out.json').read_text())['accuracy/top1'] <= 100
    assert len(started) == 2  # both scripts heed runner_type

    text = config.read_text().replace('num_classes=2', 'num_classes=3')
    config.write_text(text.replace("['a', 'b']", "['a', 'b', 'c']"))
    with pytest.raises(CheckpointError, match='2 classes, the model 3'):
        run_tool('test', config, 'work/epoch_1.pth', '--no-pin-memory')


def test_class_activation_is_the_weighted_map(imagenet, tmp_path, monkeypatch):
    """Zhou et al.'s map, which Grad-CAM generalises, behind a mean and a linear layer."""
    monkeypatch.setenv('IMAGENET_ROOT', str(imagenet))
    config, weights = tmp_path / 'reduced.py', tmp_path / 'a.pth'
    config.write_text(REDUCED.format(config=configs_dir() / 'swin_t_imagenet.py'))
    model = randomized(MODELS.build(Config.fromfile(config).model))
    meta = dict(dataset_meta=dict(classes=['a', 'b']))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), weights)
    subject = load_subject(config, weights)
    predictor = subject.predictor
    image = np.random.default_rng(0).integers(0, 256, (90, 141, 3), dtype=np.uint8)
    (feature,) = predictor.features(image)
    scores = predictor(image).scores
    for label, name in enumerate('ab'):
        found = explain(image, subject, name)
        weight = predictor.model.head.fc.weight[label].detach()[:, None, None]
        wanted = (weight * feature[0]).sum(0).relu() / feature[0, 0].numel()
        np.testing.assert_allclose(found.heat, wanted, atol=1e-5)
        assert found.target == Target(name, 'probability', pytest.approx(scores[label], abs=1e-6))
    assert explain(image, subject, '0').target.name == 'ab'[int(scores.argmax())]


def spy(calls: list, method):
    def called(self, *args):
        calls.append(self)
        return method(self, *args)

    return called


# --- classes of one's own -------------------------------------------------------------------------

FLOWERS = ('daisy', 'rose', 'tulip')


@pytest.fixture
def flowers(tmp_path, monkeypatch) -> Path:
    """A folder for each class, as docs/fine_tune.md has them."""
    monkeypatch.chdir(tmp_path)
    image = np.full((40, 52, 3), 90, np.uint8)
    for split in ('train', 'val'):
        for name in FLOWERS:
            (tmp_path / f'flowers/{split}/{name}').mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(tmp_path / f'flowers/{split}/{name}/{i}.jpg'), image)
    return tmp_path / 'flowers'


def of_the_page(replaced: str = '', by: str = '') -> Config:
    """The page's config of an ImageNet recipe."""
    page = (Path(__file__).parents[1] / 'docs/fine_tune.md').read_text()
    blocks = re.findall(r'```python[^\n]*\n(.*?)```', page, re.DOTALL)
    (text,) = (block for block in blocks if 'CustomDataset' in block)
    assert replaced in text
    base = f"_base_ = '{configs_dir()}/swin_t_imagenet.py'\n"
    Path('mine.py').write_text(base + text.replace(replaced, by))
    return Config.fromfile('mine.py')


def test_classes_of_ones_own(flowers):
    found = report(of_the_page(), 'mine.py')
    assert found.problems == found.remarks == []
    train, val = found.contents
    assert train.classes == FLOWERS and train.objects == val.objects == {0: 2, 1: 2, 2: 2}
    assert train.sizes == {(52, 40): 6} and not train.pixels
    picture = draw_sample(found.datasets[0], 3)
    assert picture.width == 768 and picture.height > 768 * 40 // 52


@pytest.mark.parametrize(
    ('forgotten', 'options'),
    [
        ('head=dict(num_classes=len(classes)),', {'model.head.num_classes': 3}),
        ('= dict(num_classes=len(classes))', {'data_preprocessor.num_classes': 3}),
        ('topk=(1,)', {f'{phase}_evaluator.topk': 1 for phase in ('val', 'test')}),
    ],
)
def test_what_is_forgotten_of_them_is_named(flowers, forgotten, options):
    config = of_the_page(forgotten, '= dict()' if forgotten.startswith('=') else '')
    found = report(config, 'mine.py')
    assert found.compared.options == options
    (problem,) = found.problems
    assert problem.startswith('train_dataloader.dataset has 3 classes (daisy, rose, tulip), but')


def test_accuracy_among_more_than_there_are():
    """Which mmpretrain says after the first epoch."""
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match='Top-5 accuracy is unavailable'):
        Accuracy.calculate(torch.rand(2, 3), labels, topk=(1, 5))


def test_a_run_compares_classes(flowers):
    config = of_the_page('head=dict(num_classes=len(classes)),')
    config.merge_from_dict({f'{phase}_dataloader.num_workers': 0 for phase in ('train', 'val')})
    for phase in ('train', 'val'):
        config[f'{phase}_dataloader'].persistent_workers = False
    config.model.backbone.update(arch=SMALL, window_size=4, init_cfg=None)
    config.model.head.in_channels, config.work_dir = 192, 'work'
    with pytest.raises(ArgumentError, match=r'model\.head\.num_classes = 1000, not 3'):
        RUNNERS.build(config).train()

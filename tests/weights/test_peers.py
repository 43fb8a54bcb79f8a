"""Comparison with peers: converted weights give the same features in both models.

In float64, to 1e-10 of the features' size; in float32 to 1e-5. The peers run in processes of their
own (``tests/peers.py``, which also says where definitions differ). detectron2, the official code
and Transformer-SSL cannot be installed with this stack: ``test_formats.py`` has their keys.
"""

from __future__ import annotations

import official
import official_v2
import peers
import pytest
import torch
import v2_files
from safetensors.torch import save_file
from torch.nn import functional as F

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.weights import convert, describe

FORMATS = {
    'mmdet': 'openmmlab',
    'mmpretrain': 'mmpretrain',
    'timm': 'timm',
    'torchvision': 'torchvision',
    'transformers': 'transformers',
    'transformers-classifier': 'transformers',
    'mmpretrain-v2': 'mmpretrain',
    'timm-v2': 'timm',
    'torchvision-v2': 'torchvision',
    'transformers-v2': 'transformers',
    'transformers-v2-classifier': 'transformers',
}
CLASSIFIERS = ('mmpretrain', 'timm', 'torchvision', 'transformers-classifier')
CLASSIFIERS += ('mmpretrain-v2', 'timm-v2', 'torchvision-v2', 'transformers-v2-classifier')
APART = ('mmpretrain', 'timm', 'torchvision', 'mmpretrain-v2', 'timm-v2', 'torchvision-v2')
needs_folder = pytest.mark.skipif(
    not peers.APART.is_dir(), reason=f'no {peers.APART}: requirements/set_up.sh makes it'
)
SLOW = ('torchvision-v2', 'transformers-v2')
CASES = [
    pytest.param(
        name,
        marks=[needs_folder] * (name in APART) + [pytest.mark.slow] * (name in SLOW),
    )
    for name in FORMATS
]


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_a_peer_and_this_package_agree_on_each_others_weights(name, tmp_path):
    official_weights = write_converted(name, tmp_path)
    told = peers.run(name, tmp_path)
    check_their_weights_here(name, told, next(tmp_path.glob('checkpoint.*')))
    check_official_weights_there(name, told, official_weights)


def write_converted(name, folder):
    """Random weights in the official layout, and a file with them in the peer's."""
    weights = random_state_dict(name)
    converted = convert(weights, FORMATS[name])
    if name.startswith('transformers'):
        tensors = {k: v.contiguous() for k, v in converted.items()}
        save_file(tensors, folder / 'converted.safetensors', metadata={'format': 'pt'})
    else:
        content = {'state_dict': converted} if name.startswith('mm') else converted
        torch.save(content, folder / 'converted.pth')
    return weights


def random_state_dict(name):
    arguments = peers.GEOMETRIES['small']
    classification = name in CLASSIFIERS
    if is_v2(name):
        assert arguments == v2_files.GEOMETRY
        extra = peers.EXTRA_NORM_EVERY.get(name, 0)
        # The backbone of transformers lacks the norms, so it is given a classifier's file as well.
        return v2_files.random_state_dict(extra_norms=extra)
    return official.random_state_dict(
        embed_dim=arguments['embed_dims'],
        depths=arguments['depths'],
        num_heads=arguments['num_heads'],
        window=arguments['window_size'],
        classification=classification,
    )


def is_v2(name):
    return '-v2' in name


def check_their_weights_here(name, told, path):
    geometry = peers.geometry(name)
    description = describe(path)
    assert description.format == FORMATS[name]
    assert description.architecture == ('tiny' if geometry == 'tiny' else None)
    assert description.num_classes == (peers.CLASSES if name in CLASSIFIERS else None)
    assert description.dtypes == ('float64',)

    arguments = dict(peers.GEOMETRIES[geometry])
    if is_v2(name):
        extra = peers.EXTRA_NORM_EVERY.get(name, 0)
        pretrained = peers.PRETRAINED_WINDOWS.get(name, (0, 0, 0, 0))
        arguments |= dict(extra_norm_every_n_blocks=extra, pretrained_window_sizes=pretrained)
        assert description.extra_norm_every_n_blocks == extra
        if name == 'mmpretrain-v2':
            assert description.pretrained_window_sizes == pretrained
    cls = SwinTransformerV2 if is_v2(name) else SwinTransformer
    model = cls(**arguments, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.double().eval().init_weights()
    assert_same(model(told['input']), told['features'])
    model.float()
    assert_same(model(told['input'].float()), told['features'], tolerance=1e-5)


def check_official_weights_there(name, told, weights):
    expected = official_features(name, weights, told['converted_input'])
    if name in CLASSIFIERS:
        last = layer_norm(expected[-1], weights['norm.weight'], weights['norm.bias'])
        logits = F.linear(last.mean((2, 3)), weights['head.weight'], weights['head.bias'])
        assert_same([told['converted_logits']], [logits])
        expected = [layer_norm(out) for out in expected]
        # mmpretrain has the norm before the classifier within the backbone.
        expected[-1] = last if name.startswith('mmpretrain') else expected[-1]
    elif name == 'transformers-v2':
        expected = [layer_norm(out) for out in expected]
    assert_same(told['converted_features'], expected)


def official_features(name, weights, x):
    window = peers.GEOMETRIES['small']['window_size']
    if not is_v2(name):
        return official.forward(weights, x, window)
    pretrained = peers.PRETRAINED_WINDOWS.get(name, (0, 0, 0, 0))
    return official_v2.forward(convert(weights, 'openmmlab'), x, [window] * 4, pretrained)


def layer_norm(x, *weights):
    x = x.permute(0, 2, 3, 1)
    return F.layer_norm(x, x.shape[-1:], *weights).permute(0, 3, 1, 2)


def assert_same(found, expected, tolerance=1e-10):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()

"""Loading of foreign layouts, other windows, and files that do not fit."""

from __future__ import annotations

import official
import pytest
import torch
from mmdet.models.backbones import swin as mmdet_swin
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from small import SMALL, randomized
from torch import nn

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer
from swin_backbone.weights import convert

GEOMETRY = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)


class Detector(BaseModule):
    """A model with a backbone under the usual name, and a head."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def model(**arguments) -> SwinTransformer:
    return SwinTransformer(**{**GEOMETRY, **arguments}).double().eval()


def assert_gives_official_features(backbone: SwinTransformer, state_dict: dict) -> None:
    x = torch.randn(1, 3, 45, 70, dtype=torch.float64)
    outs, expected = backbone(x), official.forward(state_dict, x, GEOMETRY['window_size'])
    for out, their_out in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, their_out, rtol=1e-10, atol=1e-10)


# --- layouts and containers ----------------------------------------------------------------------

WRAPPINGS = {
    'bare': lambda sd: sd,
    'model': lambda sd: {'model': sd, 'epoch': 3, 'optimizer': {'state': {}}},
    'state_dict': lambda sd: {'meta': {}, 'state_dict': sd},
    'module.': lambda sd: {f'module.{k}': v for k, v in sd.items()},
    'whole detector': lambda sd: {
        'state_dict': {
            **{f'backbone.{k}': v for k, v in sd.items()},
            'head.weight': torch.zeros(2, 2),
        }
    },
}


@pytest.mark.parametrize('wrap', WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize('classification', [False, True])
def test_official_layout_loads_strictly_from_memory_and_file(wrap, classification, tmp_path):
    state_dict = official.random_state_dict(classification=classification, ape_grid=(8, 8))
    checkpoint = wrap(state_dict)
    ape = dict(use_abs_pos_embed=True, pretrain_img_size=32)

    from_memory = model(**ape)
    result = from_memory.load_state_dict(checkpoint)
    assert not result.missing_keys and not result.unexpected_keys
    torch.save(checkpoint, tmp_path / 'official.pth')
    from_file = model(**ape, init_cfg=dict(type='Pretrained', checkpoint=tmp_path / 'official.pth'))
    from_file.init_weights()

    if classification:  # the file lacks the outputs' norms: they are as constructed
        state_dict['absolute_pos_embed'] = (
            state_dict['absolute_pos_embed'].transpose(1, 2).unflatten(-1, (8, 8))
        )
        for i in range(4):
            state_dict[f'norm{i}.weight'] = torch.ones(16 * 2**i, dtype=torch.float64)
            state_dict[f'norm{i}.bias'] = torch.zeros(16 * 2**i, dtype=torch.float64)
    assert_gives_official_features(from_memory, state_dict)
    assert_gives_official_features(from_file, state_dict)


def test_whole_official_detector_loads_into_a_detector(tmp_path):
    state_dict = official.random_state_dict()
    whole = {f'backbone.{k}': v for k, v in state_dict.items()}
    whole |= {'head.weight': torch.eye(2), 'head.bias': torch.ones(2)}

    detector = Detector(model())
    detector.load_state_dict(whole, strict=True)
    assert_gives_official_features(detector.backbone, state_dict)
    assert torch.equal(detector.head.weight, torch.eye(2))

    # As the frameworks load it (load_from): through mmengine, from a file.
    torch.save({'state_dict': whole, 'meta': {}}, tmp_path / 'detector.pth')
    detector = Detector(model())
    load_checkpoint(detector, str(tmp_path / 'detector.pth'), strict=True)
    assert_gives_official_features(detector.backbone, state_dict)


@pytest.mark.parametrize('wrap', WRAPPINGS.values(), ids=WRAPPINGS)
def test_openmmlab_layout_both_ways(wrap, tmp_path):
    theirs = randomized(mmdet_swin.SwinTransformer(**SMALL))
    ours = SwinTransformer(**SMALL).eval()
    ours.load_state_dict(wrap(theirs.state_dict()), strict=True)
    back = mmdet_swin.SwinTransformer(**SMALL)
    back.load_state_dict(ours.state_dict(), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
        assert torch.equal(back.state_dict()[key], value)

    torch.save(wrap(theirs.state_dict()), tmp_path / 'theirs.pth')
    from_file = SwinTransformer(
        **SMALL, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'theirs.pth'))
    )
    from_file.init_weights()
    for key, value in theirs.state_dict().items():
        assert torch.equal(from_file.state_dict()[key], value)


def test_prefix_picks_one_of_several_backbones(tmp_path):
    first, second = official.random_state_dict(), official.random_state_dict()
    both = {f'teacher.backbone.{k}': v for k, v in first.items()}
    both |= {f'backbone.{k}': v for k, v in second.items()}
    torch.save(both, tmp_path / 'both.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'both.pth'))
    for prefix, expected in (('teacher.backbone.', first), ('backbone', second)):
        backbone = model(init_cfg={**init_cfg, 'prefix': prefix})
        backbone.init_weights()
        assert_gives_official_features(backbone, expected)
    with pytest.raises(CheckpointError, match=r"no weights under 'student'"):
        model(init_cfg={**init_cfg, 'prefix': 'student'}).init_weights()


def test_loading_leaves_the_callers_dict_alone():
    state_dict = official.random_state_dict()
    before = dict(state_dict)
    model().load_state_dict(state_dict)
    assert state_dict.keys() == before.keys()
    assert all(state_dict[k] is before[k] for k in before)


# --- what may be resized -------------------------------------------------------------------------


@pytest.mark.parametrize('layout', ['official', 'openmmlab'])
def test_other_windows_are_resized_bicubically(layout):
    if layout == 'official':
        state_dict = official.random_state_dict(window=7)
        name = 'layers.1.blocks.1.attn.relative_position_bias_table'
    else:
        state_dict = randomized(model(window_size=7)).state_dict()
        name = 'stages.1.blocks.1.attn.w_msa.relative_position_bias_table'
    backbone = model()
    backbone.load_state_dict(state_dict, strict=True)
    ours = backbone.stages[1].blocks[1].attn.w_msa
    grid = state_dict[name].T.reshape(1, 2, 13, 13)
    expected = nn.functional.interpolate(grid, size=(7, 7), mode='bicubic')
    torch.testing.assert_close(ours.relative_position_bias_table, expected.flatten(2)[0].T)
    assert torch.equal(
        ours.relative_position_index, model().stages[1].blocks[1].attn.w_msa.relative_position_index
    )


@pytest.mark.parametrize('size', [64, (48, 96)])
def test_position_embedding_of_another_size_is_resized(size):
    state_dict = official.random_state_dict(ape_grid=(8, 8))
    backbone = model(use_abs_pos_embed=True, pretrain_img_size=size)
    backbone.load_state_dict(state_dict, strict=True)
    grid = (16, 16) if size == 64 else (12, 24)
    expected = nn.functional.interpolate(state_dict['absolute_pos_embed'], grid, mode='bicubic')
    ours = backbone.absolute_pos_embed.transpose(1, 2).unflatten(-1, grid)
    torch.testing.assert_close(ours, expected)


def test_half_precision_files_are_resized_too():
    state_dict = {
        k: v.half() if v.is_floating_point() else v
        for k, v in official.random_state_dict(window=7).items()
    }
    backbone = model()
    backbone.load_state_dict(state_dict, strict=True)
    assert all(p.isfinite().all() for p in backbone.parameters())


# --- what may not --------------------------------------------------------------------------------


def load_file(content, tmp_path, **arguments):
    torch.save(content, tmp_path / 'file.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'file.pth'))
    model(**arguments, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    ('content', 'arguments', 'message'),
    [
        (
            lambda: {'conv1.weight': torch.zeros(1)},
            {},
            'known Swin layout(.|\n)*conv1(.|\n)*wanted',
        ),
        (dict, {}, 'no weights'),
        (lambda: [1, 2], {}, 'expected a dict'),
        (lambda: torch.zeros(3), {}, 'expected a dict'),
        (
            lambda: official.random_state_dict(embed_dim=24),
            {},
            r'another shape(.|\n)*embed_dims=24',
        ),
        (lambda: official.random_state_dict(num_heads=(2, 4, 8, 16)), {}, 'bias_table: found'),
        (
            lambda: official.random_state_dict(depths=(2, 2, 4, 2)),
            {},
            r'not in the model(.|\n)*\(2, 2, 4, 2\)',
        ),
        (lambda: official.random_state_dict(depths=(2, 2, 1, 2)), {}, 'missing in the file'),
        (lambda: official.random_state_dict(ape_grid=(8, 8)), {}, 'absolute_pos_embed'),
        (official.random_state_dict, dict(use_abs_pos_embed=True), 'absolute_pos_embed'),
        (
            lambda: official.random_state_dict() | {'layers.0.blocks.0.norm1.weight': 'text'},
            {},
            'found a str',
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str | dict) else '',
)
def test_errors_name_the_architectures_of_file_and_model(content, arguments, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load_file(content(), tmp_path, **arguments)


def test_non_strict_loading_is_never_a_silent_random_start():
    with pytest.raises(CheckpointError, match='known Swin layout'):
        model().load_state_dict({'conv1.weight': torch.zeros(1)}, strict=False)
    with pytest.raises(CheckpointError, match='another shape'):
        model().load_state_dict(official.random_state_dict(embed_dim=24), strict=False)
    with pytest.raises(CheckpointError, match='known Swin layout'):
        Detector(model()).load_state_dict({'backbone.conv1.weight': torch.zeros(1)}, strict=False)

    with pytest.raises(CheckpointError, match='the state dict is empty'):
        model().load_state_dict({}, strict=False)


@pytest.mark.parametrize('wrap', ['bare', 'model', 'module.'])
@pytest.mark.parametrize('layout', ['openmmlab', 'microsoft'])
def test_a_backbones_file_in_load_from_is_an_error_that_names_init_cfg(layout, wrap, tmp_path):
    state_dict = convert(model().state_dict(), to=layout)
    torch.save(WRAPPINGS[wrap](state_dict), tmp_path / 'backbone.pth')
    with pytest.raises(CheckpointError, match=r"nothing is under 'backbone\.'(.|\n)*init_cfg"):
        load_checkpoint(Detector(model()), str(tmp_path / 'backbone.pth'))


@pytest.mark.parametrize('container', ['model', 'model_state_dict', 'net', 'params'])
def test_load_from_says_where_a_whole_models_weights_must_be(container, tmp_path):
    torch.save({container: Detector(model()).state_dict()}, tmp_path / 'detector.pth')
    message = rf"nothing is under 'backbone\.'.*from 'state_dict', not from '{container}'"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(Detector(model()), str(tmp_path / 'detector.pth'))


def test_a_heads_weights_alone_may_be_loaded():
    detector = Detector(model())
    detector.load_state_dict({'head.weight': torch.ones(2, 2)}, strict=False)
    assert (detector.head.weight == 1).all()


@pytest.mark.parametrize('checkpoint', [dict(checkpoint=None), dict(checkpoint=''), {}])
def test_no_file_named_is_an_error(checkpoint):
    with pytest.raises(ArgumentError, match='names no file'):
        model(init_cfg=dict(type='Pretrained', **checkpoint)).init_weights()


def test_output_norms_alone_may_differ(tmp_path):
    load_file(official.random_state_dict(), tmp_path, out_indices=(1, 3))
    without = {k: v for k, v in model().state_dict().items() if not k.startswith('norm')}
    load_file(without, tmp_path)


def test_other_initialisers_and_missing_files():
    constant = model(init_cfg=dict(type='Constant', layer='Linear', val=0.25))
    constant.init_weights()
    assert (constant.stages[0].blocks[0].ffn.layers[1].weight == 0.25).all()
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        model(pretrained='nowhere.pth').init_weights()

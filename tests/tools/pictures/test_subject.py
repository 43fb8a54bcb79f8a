"""Models from a config, weights, both or neither; and the preparation of images for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import SMALL, randomized

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer, SwinTransformerV2
from swin_backbone.tools.configs import read
from swin_backbone.tools.pictures import subject as module
from swin_backbone.tools.pictures.figures import grids
from swin_backbone.tools.pictures.subject import RANDOM, View, load_subject, view_of
from swin_backbone.tools.predictor import build

DETECTOR = 'demo_mask_rcnn_shapes'


def image(height=90, width=141):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path, model):
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    torch.manual_seed(0)
    model = randomized(build(read(DETECTOR), DETECTOR))
    return saved(tmp_path_factory.mktemp('detector') / 'whole.pth', model)


@pytest.fixture
def no_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'checkpoints'))
    monkeypatch.setenv('SWIN_OFFLINE', '1')


def test_a_whole_model(detector):
    found = load_subject(DETECTOR, detector)
    assert found.predictor.task == 'detection' and not found.random and not found.why_not
    assert found.backbone is found.predictor.model.backbone
    view = found.view(image())
    assert view.size == tuple(view.inputs.shape[2:]) == (128, 128)  # the config's test size
    assert view.scale == pytest.approx((128 / 141, 128 / 90))


def test_a_models_backbone_alone(detector, tmp_path):
    """With the weights of other heads, only the backbone is drawn, and the reason is given."""
    whole = torch.load(detector)['state_dict']
    part = {k: v for k, v in whole.items() if k.startswith('backbone.')}
    torch.save(dict(state_dict=part), tmp_path / 'part.pth')
    found = load_subject(DETECTOR, tmp_path / 'part.pth')
    assert found.predictor is None and 'weights are missing in the file' in found.why_not
    weight = found.backbone.stages[0].blocks[0].attn.w_msa.qkv.weight
    assert torch.equal(weight, whole['backbone.stages.0.blocks.0.attn.w_msa.qkv.weight'])


def test_weights_of_something_else(detector, tmp_path):
    torch.save(dict(state_dict=dict(a=torch.ones(1))), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='does not fit'):
        load_subject(DETECTOR, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError):
        load_subject(None, tmp_path / 'other.pth')


def test_without_weights():
    found = load_subject(DETECTOR)
    assert found.random and found.weights == RANDOM and found.predictor is None
    again = load_subject(DETECTOR)
    for mine, other in zip(found.backbone.parameters(), again.backbone.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_config_of_a_backbone(tmp_path):
    model = randomized(SwinTransformer(**SMALL))
    config = tmp_path / 'config.py'
    config.write_text(f"model = dict(type='SwinTransformer', **{SMALL!r})\n")
    assert load_subject(config).random
    found = load_subject(config, saved(tmp_path / 'a.pth', model))
    assert not found.random and found.predictor is None
    inputs = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        for mine, other in zip(found.backbone(inputs), model.eval()(inputs), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize('kind', [SwinTransformer, SwinTransformerV2])
def test_weights_say_their_architecture(kind, tmp_path):
    more = dict(pretrained_window_sizes=(4, 4, 4, 4)) if kind is SwinTransformerV2 else {}
    model = randomized(kind(**SMALL, use_abs_pos_embed=True, pretrain_img_size=64, **more))
    found = load_subject(None, saved(tmp_path / 'a.pth', model))
    inputs = torch.randn(1, 3, 40, 52)
    with torch.no_grad():
        for mine, other in zip(found.backbone(inputs), model.eval()(inputs), strict=True):
            assert torch.equal(mine, other)


def test_files_of_v2_without_buffers_do_not_say_their_windows(tmp_path):
    state_dict = SwinTransformerV2(**SMALL).state_dict()
    torch.save({k: v for k, v in state_dict.items() if 'relative' not in k}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='give its config'):
        load_subject(None, str(tmp_path / 'a.pth'))


def test_neither(no_downloads, tmp_path, monkeypatch):
    found = load_subject()
    assert found.random and found.name == 'Swin-T'
    assert sum(p.numel() for p in found.backbone.parameters()) > 27e6
    # Once its weights have been downloaded, they are taken.
    monkeypatch.setattr(module, 'DEFAULT', 'mine')
    path = saved(tmp_path / 'mine.pth', randomized(SwinTransformer(**SMALL)))
    monkeypatch.setattr(module, 'target', lambda name: type('T', (), dict(path=path)))
    monkeypatch.setattr(module, 'DEFAULT', str(path))
    assert load_subject().weights == str(path)


def test_errors(tmp_path, detector):
    with pytest.raises(ArgumentError, match="device='nowhere'"):
        load_subject(DETECTOR, device='nowhere')
    config = tmp_path / 'config.py'
    config.write_text(
        "_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'\ndefault_scope = 'mmdet'"
    )
    with pytest.raises(ArgumentError, match='ResNet, none of this package'):
        load_subject(config)


def test_a_backbones_input_is_normalised():
    found = module._untrained('small', lambda: SwinTransformer(**SMALL), torch.device('cpu'))
    white = np.full((50, 100, 3), 255, np.uint8)
    view = found.view(white)
    wanted = (255 - torch.tensor(module.MEAN)) / torch.tensor(module.STD)
    torch.testing.assert_close(view.inputs[0, :, 3, 5], wanted)
    assert view.size == (50, 100) and view.scale == (1, 1)
    large = found.view(np.zeros((500, 1280, 3), np.uint8))
    assert large.size == (250, 640) and large.inputs.shape == (1, 3, 250, 640)
    assert large.to_image(640, 250) == (1280, 500)
    found.view(np.zeros((1, 5000, 3), np.uint8))


def test_what_pipelines_do_to_an_image():
    inputs = torch.zeros(1, 3, 96, 128)
    # Resized, then padded by the model's preprocessor.
    known = dict(ori_shape=(45, 64), img_shape=(90, 128), scale_factor=(2.0, 2.0))
    assert view_of(inputs, known) == View(inputs, (90, 128), (2.0, 2.0), (0, 0))
    # Padded within the pipeline, which then takes the padding for image.
    known |= dict(img_shape=(96, 128))
    assert view_of(inputs, known).size == (90, 128)
    # Resized to 100 × 200, and the centre cut out.
    known = dict(ori_shape=(50, 100), img_shape=(96, 96), scale_factor=(2.0, 2.0))
    view = view_of(inputs, known)
    assert view.size == (96, 96) and view.offset == (52, 2)
    assert view.to_input(26, 1) == (0, 0) and view.to_image(0, 0) == (26, 1)
    # A pipeline that leaves the image as it is says nothing of a scale.
    assert view_of(inputs, dict(ori_shape=(96, 128), img_shape=(96, 128))).scale == (1, 1)


def test_a_backbone_of_grey_images_gets_them_grey():
    pixels = image()
    pixels[:] = pixels[..., :1]
    views = []
    for channels in (3, 1):
        make = lambda c=channels: SwinTransformer(**SMALL, in_channels=c)  # noqa: E731
        views.append(module._untrained('small', make, torch.device('cpu')).view(pixels).inputs)
    colour, grey = views
    assert grey.shape == (1, 1, *colour.shape[2:])
    # As the mean of the three, which differ by their means and deviations.
    mean, std = np.mean(module.MEAN), np.mean(module.STD)
    restored = colour * torch.tensor(module.STD)[:, None, None]
    restored = restored + torch.tensor(module.MEAN)[:, None, None]
    torch.testing.assert_close(grey[:, 0], (restored.mean(1) - mean) / std, atol=1e-4, rtol=0)


def test_other_channels_cannot_be_shown():
    make = lambda: SwinTransformer(**SMALL, in_channels=4)  # noqa: E731
    found = module._untrained('small', make, torch.device('cpu'))
    with pytest.raises(ArgumentError, match=r'in_channels=4, and pictures are read as RGB'):
        found.view(image())


def test_tokens_lie_where_they_were_cut():
    """A bright pixel is within the token whose features it changes, in every stage."""
    found = module._untrained('small', lambda: SwinTransformer(**SMALL), torch.device('cpu'))
    plain = np.zeros((75, 150, 3), np.uint8)
    dotted = plain.copy()
    dotted[50:52, 101:103] = 255
    with torch.no_grad():
        change = found.backbone.patch_embed(found.view(dotted).inputs)[0]
        change = change - found.backbone.patch_embed(found.view(plain).inputs)[0]
    first = grids(found, found.view(plain))[0]
    row, column = first.token(101.5, 50.5, (19, 38))
    assert change.abs().sum(-1).reshape(19, 38).nonzero().tolist() == [[row, column]]
    assert first.corner(row, column) == (100, 48)
    assert [grid.side for grid in grids(found, found.view(plain))] == [
        (4, 4), (8, 8), (16, 16), (32, 32)
    ]  # fmt: skip
    assert first.shown() == (19, 38)

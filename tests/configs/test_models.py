"""Every config builds its model, with this package's backbone and the size that was published."""

from __future__ import annotations

import math
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from recipes import CONFIGS, DETECTORS, HTC, RECIPES, SEGMENTORS, V2_RECIPES, load, model, path
from stock import inherited
from torch import nn

from swin_backbone import ArgumentError, SwinTransformer, SwinTransformerV2
from swin_backbone.swin import VARIANTS
from swin_backbone.weights.catalog import find

# Configs and models are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('configs')

MMDET = Path(mmdet.__file__).parent / '.mim/configs'
RELEASE = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0'


@pytest.mark.parametrize('name', CONFIGS)
def test_builds_with_our_backbone(name):
    expected = SwinTransformerV2 if name in V2_RECIPES else SwinTransformer
    built = model(name)
    # Where a config tests on many views as it is, the model is within another.
    assert type(getattr(built, 'module', built).backbone) is expected


@pytest.mark.parametrize('name', V2_RECIPES)
def test_v2_is_that_of_its_weights(name):
    """Only the backbone differs from V1's recipe, and it is the one that the weights are of."""
    config, backbone = load(name).model.backbone, model(name).backbone
    arch, window, weights = V2_RECIPES[name]
    entry = find(weights)
    assert config.init_cfg.checkpoint == weights
    assert (entry.version, entry.window, entry.resolution) == (2, window, 256)
    assert backbone.num_features[0] == VARIANTS[arch]['embed_dims']
    assert tuple(len(stage.blocks) for stage in backbone.stages) == VARIANTS[arch]['depths']
    for i, stage in enumerate(backbone.stages):
        attention = stage.blocks[1].attn.w_msa
        assert attention.window_size == window
        pretrained = min(window, 256 // (4 << i))
        assert (attention.pretrained_window_size or window) == pretrained
    v1 = load(name.replace('swinv2', 'swin'))
    for part in ('optim_wrapper', 'param_scheduler', 'train_dataloader', 'test_dataloader'):
        assert load(name)[part] == v1[part]
    assert config.drop_path_rate == v1.model.backbone.drop_path_rate


@pytest.mark.parametrize('name', RECIPES)
def test_is_the_official_variant(name):
    config, backbone, recipe = load(name).model.backbone, model(name).backbone, RECIPES[name]
    assert config.init_cfg.type == 'Pretrained'
    assert find(config.init_cfg.checkpoint).url == f'{RELEASE}/swin_{recipe.weights}.pth'
    variant = VARIANTS[recipe.arch]
    assert backbone.num_features[0] == variant['embed_dims']
    assert tuple(len(stage.blocks) for stage in backbone.stages) == variant['depths']
    assert backbone.window_size == 7 and not backbone.use_abs_pos_embed
    assert backbone.stages[-1].blocks[-1].ffn.dropout_layer.drop_prob == pytest.approx(
        recipe.drop_path_rate
    )


@pytest.mark.parametrize('name', RECIPES)
def test_has_as_many_parameters_as_published(name):
    count = sum(parameter.numel() for parameter in model(name).parameters())
    assert round(count / 1e6) == RECIPES[name].parameters


@pytest.mark.parametrize('name', RECIPES)
def test_heads_follow_the_backbone(name):
    """Shapes flow from the backbone through the whole of the model."""
    widths = model(name).backbone.num_features
    features = [torch.empty(1, c, 64 >> i, 64 >> i, device='meta') for i, c in enumerate(widths)]
    built = model(name).eval()
    with torch.no_grad():
        if name in DETECTORS:
            scores, _ = built.rpn_head(built.neck(features))
            assert [s.shape[-1] for s in scores] == [64, 32, 16, 8, 4]
        else:
            for head in (built.decode_head, built.auxiliary_head):
                assert head(features).shape[1] == 150


def test_cascade_has_the_official_box_heads():
    heads = model('cascade_swin_b_coco').roi_head.bbox_head
    stds = [head.bbox_coder.stds for head in heads]
    assert stds == [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    for head in heads:
        assert [len(head.shared_convs), len(head.shared_fcs)] == [4, 1]
        assert all(isinstance(conv.bn, nn.SyncBatchNorm) for conv in head.shared_convs)
        assert type(head.loss_bbox).__name__ == 'GIoULoss' and head.loss_bbox.loss_weight == 10
        assert head.reg_decoded_bbox and head.fc_reg.out_features == 4 * 80


def test_htc_is_mmdets_with_the_official_box_heads():
    config = Config.fromfile(MMDET / 'htc/htc_r50_fpn_1x_coco.py').model
    ours, theirs = load('htcpp_swin_b_coco').model.roi_head, config.roi_head
    for key in ('type', 'interleaved', 'mask_info_flow', 'num_stages', 'stage_loss_weights'):
        assert ours[key] == theirs[key]
    for key in ('bbox_roi_extractor', 'mask_roi_extractor', 'semantic_roi_extractor'):
        assert ours[key] == theirs[key]
    assert ours.semantic_head == theirs.semantic_head
    for head, theirs_head in zip(ours.mask_head, theirs.mask_head, strict=True):
        assert head.pop('with_conv_res', True) == theirs_head.pop('with_conv_res', True)
        assert head == theirs_head
    assert all(head.reg_class_agnostic for head in (*ours.bbox_head, *theirs.bbox_head))
    cascade = load('cascade_swin_b_coco').model.roi_head.bbox_head
    assert [dict(head, reg_class_agnostic=False) for head in ours.bbox_head] == cascade
    assert load('htcpp_swin_b_coco').model.type == config.type == 'HybridTaskCascade'


def test_htc_differs_as_its_names_say():
    base, large = load('htcpp_swin_b_coco'), load('htcpp_swin_l_coco')
    nms = dict(type='soft_nms', iou_threshold=0.5)
    assert base.model.test_cfg.rcnn.nms == nms and base.model.test_cfg.rcnn.score_thr == 0.001
    assert model('htcpp_swin_l_coco').backbone.global_attention is not None
    assert model('htcpp_swin_l_coco').roi_head.with_semantic
    without = model('htcpp_swin_l_nosem_coco')
    assert not without.roi_head.with_semantic and without.backbone.global_attention is not None
    assert load('htcpp_swin_l_mstest_coco').model.module == large.model


@pytest.mark.parametrize('name', RECIPES)
def test_weight_decay_spares_norms_and_position_biases(name):
    settings = load(name).optim_wrapper
    decay, rate = (0.05, 1e-4) if name in DETECTORS else (0.01, 6e-5)
    groups = build_optim_wrapper(model(name), settings).optimizer.param_groups
    found = {
        id(p): (group['weight_decay'], group['lr']) for group in groups for p in group['params']
    }
    assert settings.optimizer.type == 'AdamW' and settings.optimizer.betas == (0.9, 0.999)

    spared = 0
    for module in model(name).modules():
        for key, parameter in module.named_parameters(recurse=False):
            no_decay = isinstance(module, nn.LayerNorm) or key == 'relative_position_bias_table'
            assert found[id(parameter)] == (0 if no_decay else decay, rate), (module, key)
            spared += no_decay
    blocks = sum(VARIANTS[RECIPES[name].arch]['depths'])
    # Two norms and a table a block; norms of patch embedding, three mergings and four outputs.
    # HTC++ has two norms more, of the global attention.
    assert spared == 5 * blocks + 2 * (1 + 3 + 4) + 4 * (name in HTC)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor_tests_whole_images(name):
    assert load(name).model.test_cfg == dict(mode='whole')


def write(folder, base, text):
    file = folder / 'user.py'
    file.write_text(f'_base_ = {str(base)!r}\n{text}')
    return file


def test_user_overrides_the_backbone(tmp_path):
    text = 'model = dict(backbone=dict(arch="small", drop_path_rate=0.4, init_cfg=None))'
    config = load(write(tmp_path, path('mask_rcnn_swin_t_coco'), text))
    with torch.device('meta'):
        backbone = MODELS.build(config.model).backbone
    assert len(backbone.stages[2].blocks) == 18 and backbone.init_cfg is None
    assert config.optim_wrapper == load('mask_rcnn_swin_t_coco').optim_wrapper


def test_user_gives_widths_instead_of_a_variant(tmp_path):
    widths = 'embed_dims=48, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)'
    heads = 'neck=dict(in_channels=[48, 96, 192, 384])'
    base = path('mask_rcnn_swin_t_coco')
    text = f'model = dict(backbone=dict(arch=None, {widths}), {heads})'
    with torch.device('meta'):
        built = MODELS.build(load(write(tmp_path, base, text)).model)
        assert built.backbone.num_features == [48, 96, 192, 384]
        contradiction = write(tmp_path, base, text.replace('arch=None, ', ''))
        with pytest.raises(ArgumentError, match="contradicts arch='tiny'"):
            MODELS.build(load(contradiction).model)


def test_user_turns_pretrained_weights_off():
    config = load(
        'upernet_swin_t_ade20k',
        model__backbone__init_cfg=None,
        model__decode_head__channels=8,
    )
    built = MODELS.build(config.model)
    built.init_weights()
    weight = built.backbone.stages[0].blocks[0].attn.w_msa.qkv.weight
    assert math.isclose(weight.std().item(), 0.02, rel_tol=0.1)


STOCK_DETECTOR = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
STOCK_SEGMENTOR = inherited(
    'mmseg', 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
)


@pytest.mark.parametrize(
    'base, name',
    [(STOCK_DETECTOR, 'mask_rcnn_swin_t_coco'), (STOCK_SEGMENTOR, 'upernet_swin_t_ade20k')],
)
def test_stock_config_builds_ours(tmp_path, base, name):
    text = "custom_imports = dict(imports=['swin_backbone'])"
    with torch.device('meta'):
        built = MODELS.build(load(write(tmp_path, base, text)).model)
    assert type(built.backbone) is SwinTransformer
    shapes, ours = (
        {key: value.shape for key, value in m.state_dict().items()} for m in (built, model(name))
    )
    assert shapes == ours


def test_type_dropped_into_a_stock_config(tmp_path):
    text = (
        "custom_imports = dict(imports=['swin_backbone'])\n"
        "model = dict(backbone=dict(_delete_=True, type='SwinTransformer', arch='tiny'),"
        'neck=dict(in_channels=[96, 192, 384, 768]))'
    )
    base = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    with torch.device('meta'):
        built = MODELS.build(load(write(tmp_path, base, text)).model)
    assert type(built.backbone) is SwinTransformer

"""The backbone against the official definition and OpenMMLab's own classes, and its contracts."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import hypothesis.strategies as st
import official
import pytest
import torch
from hypothesis import given, settings
from mmdet.models.backbones import swin as mmdet_swin
from mmseg.models.backbones import swin as mmseg_swin
from small import SMALL, randomized

from swin_backbone import ArgumentError, SwinTransformer, swin
from swin_backbone.layers import SwinBlockSequence
from swin_backbone.ops import gpu
from swin_backbone.ops.backends import use_backend

TIGHT = dict(rtol=1e-10, atol=1e-10)


def assert_same(ours, theirs, x, weights_of_outputs=None):
    """Outputs and every gradient of two models agree, to 1e-10 of their size."""
    results = []
    for model in (ours, theirs):
        image = x.clone().requires_grad_()
        torch.manual_seed(1)
        outs = model(image)
        torch.manual_seed(2)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((outs, image.grad, gradients))
    (outs, image, gradients), (their_outs, their_image, their_gradients) = results
    assert len(outs) == len(their_outs)
    for out, their_out in zip(outs, their_outs, strict=True):
        torch.testing.assert_close(out, their_out, **TIGHT)
    torch.testing.assert_close(image, their_image, **TIGHT)
    assert gradients.keys() == their_gradients.keys()
    for name, gradient in gradients.items():
        scale = their_gradients[name].abs().max().clamp(min=1)
        torch.testing.assert_close(gradient / scale, their_gradients[name] / scale, **TIGHT)


@pytest.mark.parametrize('upstream', [mmdet_swin, mmseg_swin], ids=['mmdet', 'mmseg'])
@pytest.mark.parametrize(
    ('arguments', 'size'),
    [
        (dict(), (64, 96)),
        (dict(), (97, 131)),
        (dict(window_size=12, embed_dims=48), (150, 77)),
        (dict(window_size=8, embed_dims=48, qkv_bias=False, qk_scale=0.3), (61, 70)),
        (dict(embed_dims=48, patch_norm=False, out_indices=(1, 3)), (40, 33)),
        (dict(embed_dims=48, strides=(4, 2, 1, 4)), (80, 53)),
        (dict(embed_dims=48, patch_size=3, strides=(3, 2, 2, 2)), (40, 53)),
        (dict(embed_dims=48, with_cp=True), (40, 53)),
    ],
    ids=lambda value: str(value).replace(' ', ''),
)
def test_parity_with_openmmlab(upstream, arguments, size):
    theirs = randomized(upstream.SwinTransformer(**arguments)).double()
    ours = SwinTransformer(**arguments).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.eval(), ours.eval()
    assert_same(ours, theirs, torch.randn(2, 3, *size, dtype=torch.float64))


# Triton's interpreter takes float64: tests/ops/test_triton.py.
INTERPRETED = ['triton'] if gpu.why_not('cpu', torch.float64) is None else []


@pytest.mark.parametrize('backend', ['reference', 'sdpa', *INTERPRETED])
@pytest.mark.parametrize('upstream', [mmdet_swin, mmseg_swin], ids=['mmdet', 'mmseg'])
def test_parity_with_openmmlab_under_every_backend(upstream, backend):
    theirs = randomized(upstream.SwinTransformer(**SMALL)).double()
    ours = SwinTransformer(**SMALL).double()
    ours.load_state_dict(theirs.state_dict())
    theirs.eval(), ours.eval()
    # The interpreter's time is that of its windows: a smaller map of odd sides.
    shape = (1, 3, 45, 66) if backend == 'triton' else (2, 3, 97, 131)
    with use_backend(backend):
        assert_same(ours, theirs, torch.randn(shape, dtype=torch.float64))


def test_parity_in_training_mode_with_the_same_random_draws():
    arguments = {**SMALL, 'drop_path_rate': 0.5, 'attn_drop_rate': 0.2}
    theirs = randomized(mmdet_swin.SwinTransformer(**arguments)).double()
    ours = SwinTransformer(**arguments).double()
    ours.load_state_dict(theirs.state_dict())
    theirs.train(), ours.train()
    assert_same(ours, theirs, torch.randn(4, 3, 65, 50, dtype=torch.float64))


@settings(max_examples=15)
@given(
    height=st.integers(4, 70),
    width=st.integers(4, 70),
    window=st.integers(2, 9),
    heads=st.sampled_from([(1, 1, 2, 4), (2, 4, 8, 16), (4, 4, 4, 4)]),
)
def test_parity_with_the_official_definition(height, width, window, heads):
    state_dict = official.random_state_dict(num_heads=heads, window=window)
    model = SwinTransformer(embed_dims=16, depths=(2, 2, 2, 2), num_heads=heads, window_size=window)
    model.double().load_state_dict(state_dict, strict=True)
    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    expected = official.forward(state_dict, x, window)
    for out, their_out in zip(model.eval()(x), expected, strict=True):
        torch.testing.assert_close(out, their_out, **TIGHT)


@pytest.mark.parametrize('size', [(64, 64), (32, 96), (5, 70), (129, 100)])
def test_small_maps_as_in_official_classification(size):
    state_dict = official.random_state_dict()
    widths = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
    model = SwinTransformer(**widths, window_size=4, pad_small_map=False).double().eval()
    model.load_state_dict(state_dict, strict=True)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = official.forward(state_dict, x, 4, classification=True)
    with use_backend('reference'):
        by_modules = model(x)
    for out, slow, their_out in zip(model(x), by_modules, expected, strict=True):
        torch.testing.assert_close(out, their_out, **TIGHT)
        torch.testing.assert_close(slow, their_out, **TIGHT)


def test_absolute_position_embedding_is_interpolated_as_officially():
    state_dict = official.random_state_dict(ape_grid=(8, 8))
    model = (
        SwinTransformer(
            embed_dim=16,
            depths=(2, 2, 2, 2),
            num_heads=(1, 2, 4, 8),
            window_size=4,
            ape=True,
            pretrain_img_size=32,
        )
        .double()
        .eval()
    )
    model.load_state_dict(state_dict, strict=True)
    for size in ((32, 32), (45, 70)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        for out, expected in zip(model(x), official.forward(state_dict, x, 4), strict=True):
            torch.testing.assert_close(out, expected, **TIGHT)


def test_parity_with_transformers():
    transformers = pytest.importorskip('transformers')
    config = transformers.SwinConfig(
        embed_dim=24,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 3, 4],
        window_size=4,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
        image_size=64,
    )
    theirs = randomized(transformers.SwinBackbone(config)).double().eval()
    ours = SwinTransformer(**SMALL).double().eval()
    ours.load_state_dict(official_from_transformers(theirs.state_dict()), strict=True)
    # Above the window everywhere: transformers shrinks windows on smaller maps.
    x = torch.randn(2, 3, 170, 205, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x).feature_maps
        for out, their_out in zip(ours(x), expected, strict=True):
            torch.testing.assert_close(out, their_out, **TIGHT)


# transformers' names (release 5) and the official ones.
FROM_TRANSFORMERS = {
    'swin.': '',
    'embeddings.patch_embeddings.projection': 'patch_embed.proj',
    'embeddings.norm': 'patch_embed.norm',
    'encoder.layers': 'layers',
    'layernorm_before': 'norm1',
    'layernorm_after': 'norm2',
    'attention.relative_position_bias.': 'attn.',
    'attention.o_proj': 'attn.proj',
    'hidden_states_norms.stage1': 'norm0',
    'hidden_states_norms.stage2': 'norm1',
    'hidden_states_norms.stage3': 'norm2',
    'hidden_states_norms.stage4': 'norm3',
}


def official_from_transformers(state_dict):
    """transformers' names and split projections as the official layout has them."""
    renamed = {}
    for key, value in state_dict.items():
        for theirs, ours in FROM_TRANSFORMERS.items():
            key = key.replace(theirs, ours)
        renamed[key] = value
    for key in [k for k in renamed if '.q_proj.' in k]:
        parts = [
            renamed.pop(key.replace('q_proj', name)) for name in ('q_proj', 'k_proj', 'v_proj')
        ]
        renamed[key.replace('attention.q_proj', 'attn.qkv')] = torch.cat(parts)
    return {k: v for k, v in renamed.items() if not k.startswith('layernorm.')}


# --- sizes, types, layouts -----------------------------------------------------------------------


@pytest.mark.parametrize('size', [(4, 4), (4, 400), (5, 7), (224, 224), (33, 65)])
def test_shapes_at_any_size(small_model, size):
    outs = small_model(torch.randn(1, 3, *size))
    for i, out in enumerate(outs):
        stride = 4 * 2**i
        assert out.shape == (1, 24 * 2**i, -(-size[0] // stride), -(-size[1] // stride))
        assert out.is_contiguous()
        assert out.isfinite().all()


@pytest.mark.parametrize(
    ('arch', 'parameters'),
    # The paper's table 1 counts 28M/50M/88M and Swin-L 197M with a 1000-class head on top of one
    # norm; bodies counted from those geometries: head and final norm off, four norms on.
    [('tiny', 28), ('small', 50), ('base', 88), ('large', 197)],
)
def test_variants_have_the_papers_parameters(arch, parameters):
    with torch.device('meta'):
        model = SwinTransformer(arch=arch)
    width = model.num_features[-1]
    body = sum(p.numel() for p in model.parameters())
    other_norms = sum(2 * c for c in model.num_features[:-1])
    assert round((body - other_norms + 1000 * (width + 1)) / 1e6) == parameters


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_stays_near_double(small_model, dtype):
    x = torch.randn(1, 3, 45, 50)
    expected = copy.deepcopy(small_model).double()(x.double())
    for out, exact in zip(small_model.to(dtype)(x.to(dtype)), expected, strict=True):
        assert out.dtype == dtype
        error = (out.double() - exact).norm() / exact.norm()
        assert error < {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_trains(small, dtype):
    model = SwinTransformer(**small).train()
    with torch.autocast('cpu', dtype):
        outs = model(torch.randn(2, 3, 45, 50))
    sum(out.float().square().mean() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_memory_format_and_batch_do_not_change_the_numbers(small_model):
    small_model.double()
    x = torch.randn(3, 3, 45, 50, dtype=torch.float64)
    expected = small_model(x)
    channels_last = small_model(x.to(memory_format=torch.channels_last))
    one_by_one = [small_model(image[None]) for image in x]
    for i, out in enumerate(expected):
        torch.testing.assert_close(channels_last[i], out, **TIGHT)
        torch.testing.assert_close(torch.cat([o[i] for o in one_by_one]), out, **TIGHT)
    assert [len(out) for out in small_model(x[:0])] == [0, 0, 0, 0]


# --- what other people's code does ---------------------------------------------------------------


def test_outputs_are_a_list_as_in_openmmlab(small):
    x = torch.randn(1, 3, 40, 40)
    for model in (SwinTransformer(**small), mmdet_swin.SwinTransformer(**small)):
        model.eval()  # which returns None in mmdet
        outs = model(x)
        last = outs[-1]
        outs[0] = outs[0] * 2
        outs.append(x)
        outs.reverse()
        assert outs[0] is x and outs[1] is last and len(outs) == 5


class PlainStage(SwinBlockSequence):
    """With the forward of a subclass of mmdet's."""

    def forward(self, x, hw_shape):
        for block in self.blocks:
            x = block(x, hw_shape)
        x = x + 1
        if self.downsample is None:
            return x, hw_shape, x, hw_shape
        return *self.downsample(x, hw_shape), x, hw_shape


class TheirPlainStage(mmdet_swin.SwinBlockSequence):
    forward = PlainStage.forward


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 2), (1,)])
def test_a_stage_of_ones_own_has_openmmlabs_forward(small, out_indices, monkeypatch):
    monkeypatch.setattr(swin, 'SwinBlockSequence', PlainStage)
    monkeypatch.setattr(mmdet_swin, 'SwinBlockSequence', TheirPlainStage)
    model = SwinTransformer(**small, out_indices=out_indices).double().eval()
    theirs = randomized(mmdet_swin.SwinTransformer(**small, out_indices=out_indices)).double()
    theirs.eval()
    model.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 45, 50, dtype=torch.float64)
    for out, expected in zip(model(x), theirs(x), strict=True):
        torch.testing.assert_close(out, expected, **TIGHT)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 2), (1,)])
def test_the_last_stages_merging_does_not_run(small, out_indices):
    model = SwinTransformer(**small, out_indices=out_indices).eval()
    called = []
    for name, module in model.named_modules():
        if name.endswith('downsample'):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(torch.randn(1, 3, 40, 40))
    assert called == [f'stages.{i}.downsample' for i in range(max(out_indices))]


def test_stages_know_their_widths(small):
    model = SwinTransformer(**small)
    theirs = mmdet_swin.SwinTransformer(**small)
    assert [stage.embed_dims for stage in model.stages] == [24, 48, 96, 192]
    assert [stage.out_channels for stage in model.stages] == [48, 96, 192, 192]
    merged = [stage.downsample.out_channels for stage in theirs.stages[:-1]]
    assert [stage.out_channels for stage in model.stages[:-1]] == merged


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize('out_indices', [(0,), (3,), (0, 1), (1, 2), (0, 3), (3, 1), (0, 1, 2, 3)])
def test_any_outputs_leave_no_parameter_unused(small, out_indices):
    theirs = mmdet_swin.SwinTransformer(**small, out_indices=out_indices)
    model = SwinTransformer(**small, out_indices=out_indices)
    assert model.state_dict().keys() == theirs.state_dict().keys()
    model.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(1, 3, 40, 40)
    theirs.eval()
    outs = model.eval()(x)
    for out, expected in zip(outs, theirs(x), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    sum(out.sum() for out in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 4])
def test_frozen_stages_hold_from_construction_on(small, frozen):
    model = SwinTransformer(**small, frozen_stages=frozen, use_abs_pos_embed=True)
    theirs = mmdet_swin.SwinTransformer(**small, frozen_stages=frozen, use_abs_pos_embed=True)
    theirs.train()
    expected = {name: p.requires_grad for name, p in theirs.named_parameters()}
    for _ in range(2):
        assert {name: p.requires_grad for name, p in model.named_parameters()} == expected
        assert model.train() is model
    assert {
        n: m.training for n, m in model.named_modules() if n.endswith(('norm1', 'downsample'))
    } == {n: m.training for n, m in theirs.named_modules() if n.endswith(('norm1', 'downsample'))}
    assert model.eval() is model


@pytest.mark.parametrize('backend', ['sdpa', None])
@pytest.mark.parametrize('part', [True, 'attention', 'mlp', 'block', 'stage'])
def test_checkpointing_changes_memory_not_numbers(small, part, backend):
    small = {**small, 'drop_path_rate': 0.3}
    plain = randomized(SwinTransformer(**small)).double()
    recomputed = SwinTransformer(**small, use_checkpoint=part).double()
    recomputed.load_state_dict(plain.state_dict())
    plain.train(), recomputed.train()

    def saved(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(torch.randn(1, 3, 64, 64, dtype=torch.float64))
        return sum(sizes)

    with use_backend(backend):
        assert_same(recomputed, plain, torch.randn(2, 3, 40, 50, dtype=torch.float64))
        if backend == 'sdpa':
            most = {'attention': 0.8, 'mlp': 0.7}.get(part, 0.35)
            assert saved(recomputed) < most * saved(plain)
        else:  # Blocks in one piece keep their input only, with or without.
            assert saved(recomputed) <= saved(plain)


def test_copies_and_pickles(small_model):
    x = torch.randn(1, 3, 40, 40)
    for twin in (copy.deepcopy(small_model), pickle.loads(pickle.dumps(small_model))):
        twin.load_state_dict(small_model.state_dict())
        for out, expected in zip(twin(x), small_model(x), strict=True):
            assert torch.equal(out, expected)


def test_models_built_on_the_meta_device_come_to_life(small, small_model):
    x = torch.randn(1, 3, 45, 70)
    with torch.device('meta'):
        assigned, drawn = SwinTransformer(**small), SwinTransformer(**small)
    assigned.load_state_dict(small_model.state_dict(), assign=True)
    assert not any(t.is_meta for t in assigned.state_dict().values())
    torch.testing.assert_close(assigned.eval()(x), small_model(x), rtol=0, atol=0)
    drawn.to_empty(device='cpu').init_weights()
    index = 'stages.0.blocks.0.attn.w_msa.relative_position_index'
    assert torch.equal(drawn.state_dict()[index], small_model.state_dict()[index])


def test_from_scratch_is_drawn_as_officially():
    model = SwinTransformer(arch='tiny', use_abs_pos_embed=True)
    model.init_weights()
    for name, p in model.named_parameters():
        if 'norm' in name or name.endswith('bias'):
            if 'projection' not in name:
                assert p.min() == p.max() == float('norm' in name and name.endswith('weight')), name
        elif 'projection' not in name:
            assert 0.01 < p.std() < 0.03 and p.abs().max() <= 2, name


# --- arguments -----------------------------------------------------------------------------------


def test_arch_and_official_spellings():
    by_arch = SwinTransformer(arch='Base')
    written_out = SwinTransformer(
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        in_chans=3,
        ape=False,
        use_checkpoint=False,
        img_size=224,
    )
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (by_arch, written_out)]
    assert shapes[0] == shapes[1]
    assert SwinTransformer(arch='tiny', embed_dims=96, depths=[2, 2, 6, 2]).num_features[0] == 96
    assert SwinTransformer(224, 4, 24, num_heads=(1, 1, 1, 1)).patch_embed.in_channels == 4


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(window_szie=7), TypeError, r"'window_szie'; did you mean 'window_size'"),
        (dict(norm_layer=None), TypeError, r"'norm_layer'; did you mean 'norm_cfg'"),
        (
            dict(embed_dims=96, embed_dim=128),
            ArgumentError,
            'embed_dim=128 contradicts embed_dims=96',
        ),
        (
            dict(arch='tiny', embed_dims=128),
            ArgumentError,
            "embed_dims=128 contradicts arch='tiny'",
        ),
        (dict(arch='huge'), ArgumentError, "arch='huge'"),
        (
            dict(pretrained='a.pth', init_cfg=dict(type='Pretrained')),
            ArgumentError,
            r"pretrained='a.pth' contradicts init_cfg.* set model.pretrained=None",
        ),
        (dict(pretrained=123), TypeError, 'pretrained'),
        (dict(init_cfg='a.pth'), ArgumentError, "init_cfg='a.pth' must be a dict"),
        (dict(arch=dict(embed_dims=96, depth=(2, 2))), ArgumentError, 'arch=.* dict of exactly'),
        (dict(embed_dims='96'), ArgumentError, "embed_dims='96' must be a positive int"),
        (dict(in_channels=0), ArgumentError, 'in_channels=0 must be a positive int'),
        (dict(depths=2), ArgumentError, 'depths=2 must be a list or tuple'),
        (dict(out_indices=3), ArgumentError, 'out_indices=3 must be a list or tuple'),
        (dict(drop_path_rate=1.5), ArgumentError, 'drop_path_rate=1.5 must be a probability'),
        (dict(pretrain_img_size='224'), ArgumentError, 'pretrain_img_size'),
        (dict(pretrain_img_size=(1, 2, 3)), ArgumentError, 'pretrain_img_size'),
        (dict(num_heads=(3, 6, 12, 23)), ArgumentError, 'num_heads=23 does not divide'),
        (dict(num_heads=(3, 6, 12)), ArgumentError, 'num_heads='),
        (dict(strides=(2, 2, 2, 2)), ArgumentError, 'strides'),
        (dict(out_indices=(0, 4)), ArgumentError, 'out_indices'),
        (dict(out_indices=()), ArgumentError, 'out_indices'),
        (dict(frozen_stages=5), ArgumentError, 'frozen_stages'),
        (dict(window_size=0), ArgumentError, 'window_size'),
        (
            dict(window_size=(7, 14)),
            ArgumentError,
            r'window_size=\(7, 14\): windows must be square',
        ),
        (dict(window_size=(7, 7, 7, 7)), ArgumentError, 'V1 has one window for all stages'),
        (dict(window_size=(7, 0)), ArgumentError, 'window_size=0 must be a positive int'),
        (dict(window_size=(129, 129)), ArgumentError, 'window_size=129 .* no more than 128'),
        (dict(out_indices=(3, -1)), ArgumentError, 'out_indices=.* each once'),
        (dict(out_indices=(-5,)), ArgumentError, 'out_indices=-5 .* 0 to 3, or -1 to -4 from the'),
        (dict(with_cp='blocks'), ArgumentError, "with_cp='blocks'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        SwinTransformer(**arguments)


def test_a_square_window_may_be_written_as_two_sides(small):
    for window in ((4, 4), [4, 4]):
        model = SwinTransformer(**{**small, 'window_size': window})
        assert (model.window_size, type(model.window_size)) == (4, int)
        assert all(b.attn.window_size == 4 for stage in model.stages for b in stage.blocks)


@pytest.mark.parametrize('given, counted', [((-1,), (3,)), ((-4, -2), (0, 2)), ((0, -1), (0, 3))])
def test_outputs_counted_from_the_last(small, given, counted):
    x = torch.randn(1, 3, 64, 64)
    model, same = (SwinTransformer(**{**small, 'out_indices': i}).eval() for i in (given, counted))
    assert model.out_indices == counted
    same.load_state_dict(model.state_dict())
    for ours, exact in zip(model(x), same(x), strict=True):
        assert torch.equal(ours, exact)


def test_symbolic_tracing_is_refused_with_what_works(small_model):
    with pytest.raises(
        ArgumentError, match=r'create_feature_extractor.*out_indices.*torch\.export'
    ):
        torch.fx.symbolic_trace(small_model)


def test_too_many_arguments_are_counted():
    with pytest.raises(TypeError, match='takes up to 27 arguments, got 30'):
        SwinTransformer(*[None] * 30)


def test_the_official_spellings_in_a_dict_of_arch():
    arch = dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    assert SwinTransformer(arch=arch).num_features == [16, 32, 64, 128]


@pytest.mark.parametrize('shape', [(1, 3, 3, 64), (1, 3, 64, 3), (1, 4, 64, 64), (3, 64, 64)])
def test_bad_inputs_are_named(small_model, shape):
    with pytest.raises(ArgumentError, match=r'patch|shape'):
        small_model(torch.randn(*shape))


def test_runs_without_any_framework():
    """Hides mmdet, mmseg and mmpretrain from a fresh interpreter."""
    code = (
        'import sys\n'
        "for name in ('mmdet', 'mmseg', 'mmpretrain', 'triton', 'torchvision'):\n"
        '    sys.modules[name] = None\n'
        'import torch, warnings\n'
        'warnings.simplefilter("ignore")\n'
        'from swin_backbone import SwinTransformer\n'
        'from mmengine.registry import MODELS\n'
        "model = MODELS.build(dict(type='SwinTransformer', arch='tiny'))\n"
        'assert type(model) is SwinTransformer\n'
        'print([tuple(o.shape) for o in model(torch.zeros(1, 3, 32, 32))])\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '(1, 768, 1, 1)' in result.stdout

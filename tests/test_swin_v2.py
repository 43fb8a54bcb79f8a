"""Swin V2 against the official definition and its peers' classes, and its contracts."""

from __future__ import annotations

import copy
import math
import pickle

import hypothesis.strategies as st
import official_v2
import peers
import peers_v2
import pytest
import torch
import v2_files
from hypothesis import Phase, given, settings
from small import SMALL, randomized
from torch import Tensor, nn

from swin_backbone import ArgumentError, SwinTransformerV2
from swin_backbone.layers.attention import relative_position_index
from swin_backbone.ops.backends import use_backend

TIGHT = dict(rtol=1e-10, atol=1e-10)


@pytest.fixture
def small_v2() -> SwinTransformerV2:
    """A small backbone with every weight drawn at random, in evaluation mode."""
    return randomized(SwinTransformerV2(**SMALL)).eval()


def output_weights(outs: list[Tensor]) -> list[Tensor]:
    """The same for the same shapes."""
    torch.manual_seed(1)
    return [torch.randn(out.shape, dtype=out.dtype) for out in outs]


def results(outs: list[Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs, and the gradients of some sum of them by what is ``wanted``."""
    total = sum((o * w).sum() for o, w in zip(outs, output_weights(outs), strict=True))
    gradients = torch.autograd.grad(total, list(wanted.values()))
    return {f'output {i}': out for i, out in enumerate(outs)} | dict(
        zip(wanted, gradients, strict=True)
    )


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """All agree, to 1e-10 of their size."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        error = ((ours[name] - value).abs().max() / value.abs().max().clamp(min=1)).item()
        assert error < 1e-10, name


def own_results(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    return results(model(x), dict(input=x, **dict(model.named_parameters())))


def official_results(
    model: nn.Module, x: Tensor, windows: list[int], pretrained: tuple[int, ...] = (0,) * 4
) -> dict[str, Tensor]:
    state_dict = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    x = x.clone().requires_grad_()
    outs = official_v2.forward(state_dict, x, windows, pretrained)
    return results(outs, dict(input=x, **{k: state_dict[k] for k, _ in model.named_parameters()}))


# --- numbers -------------------------------------------------------------------------------------


@settings(max_examples=12, phases=set(Phase) - {Phase.shrink, Phase.explain})
@given(
    height=st.integers(4, 70),
    width=st.integers(4, 70),
    window=st.one_of(st.integers(2, 9), st.tuples(*[st.integers(1, 9)] * 4)),
    pretrained=st.tuples(*[st.sampled_from([0, 2, 3, 6, 12])] * 4),
    heads=st.sampled_from([(1, 1, 2, 4), (2, 4, 8, 16), (4, 4, 4, 4)]),
    extra_norm=st.sampled_from([0, 1, 2]),
)
def test_parity_with_the_official_definition(height, width, window, pretrained, heads, extra_norm):
    model = SwinTransformerV2(
        embed_dims=16,
        depths=(2, 2, 2, 1),
        num_heads=heads,
        window_size=window,
        pretrained_window_sizes=pretrained,
        extra_norm_every_n_blocks=extra_norm,
    )
    randomized(model).double().eval()
    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    windows = [window] * 4 if isinstance(window, int) else window
    assert_same(own_results(model, x), official_results(model, x, windows, pretrained))


def test_parity_with_mmpretrain(tmp_path):
    if not peers.APART.is_dir():
        pytest.skip('mmpretrain is not there: make peers')
    cases, ours = [], []
    for options, size in [
        (dict(), (131, 150)),  # every map is larger than the window
        (dict(), (128, 140)),  # one is as large
        (dict(pad_small_map=True), (40, 53)),  # smaller ones, which it does not shrink windows for
        (dict(window_size=[8, 7, 5, 3], pretrained_window_sizes=[4, 12, 0, 6]), (140, 131)),
    ]:
        model = randomized(
            SwinTransformerV2(**{**SMALL, **options, 'extra_norm_every_n_blocks': 2})
        )
        model.double().eval()
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        ours.append(own_results(model, x))
        names = ('embed_dims', 'depths', 'num_heads')
        arch = {**{name: SMALL[name] for name in names}, 'extra_norm_every_n_blocks': 2}
        arguments = dict(arch=arch, window_size=SMALL['window_size'], out_indices=(0, 1, 2, 3))
        cases.append(
            dict(
                arguments={**arguments, **options},
                weights=dict(model.named_parameters()),
                input=x,
                output_weights=output_weights([v for k, v in ours[-1].items() if 'output' in k]),
            )
        )
    for mine, other in zip(ours, peers_v2.run(cases, tmp_path), strict=True):
        assert_same(mine, other)


# transformers' names (release 5) and OpenMMLab's.
FROM_TRANSFORMERS = {
    'embeddings.patch_embeddings.projection': 'patch_embed.projection',
    'embeddings.norm': 'patch_embed.norm',
    'encoder.layers': 'stages',
    'layernorm_before': 'norm1',
    'layernorm_after': 'norm2',
    'attention.self.logit_scale': 'attn.w_msa.logit_scale',
    'attention.self.continuous_position_bias_mlp': 'attn.w_msa.cpb_mlp',
    'attention.self.query.bias': 'attn.w_msa.q_bias',
    'attention.self.value.bias': 'attn.w_msa.v_bias',
    'attention.output.dense': 'attn.w_msa.proj',
    'intermediate.dense': 'ffn.layers.0.0',
    'output.dense': 'ffn.layers.1',
}


def in_our_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' weights, or the gradients of them, as OpenMMLab has them."""
    ours, split = {}, {}
    for key, value in theirs.items():
        for old, new in FROM_TRANSFORMERS.items():
            key = key.replace(old, new)
        if 'attention.self.' in key:
            base, part = key.removesuffix('.weight').rsplit('attention.self.', 1)
            split.setdefault(f'{base}attn.w_msa.qkv.weight', {})[part] = value
        elif 'downsample' in key:  # it opens a stage here
            _, stage, rest = key.split('.', 2)
            if 'reduction' in key:  # (column, row, channel) to (channel, row, column)
                value = value.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 1).flatten(1)
            ours[f'stages.{int(stage) + 1}.{rest}'] = value
        else:
            ours[key] = value
    for key, parts in split.items():
        ours[key] = torch.cat([parts[name] for name in ('query', 'key', 'value')])
    return ours


# transformers shrinks windows by its configured image size, here as the rule for the input does.
@pytest.mark.parametrize('side', [160, 96])
def test_parity_with_transformers(side):
    transformers = pytest.importorskip('transformers')
    config = transformers.Swinv2Config(
        embed_dim=SMALL['embed_dims'],
        depths=list(SMALL['depths']),
        num_heads=list(SMALL['num_heads']),
        window_size=SMALL['window_size'],
        pretrained_window_sizes=[6, 0, 3, 2],
        image_size=side,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )
    theirs = randomized(transformers.Swinv2Backbone(config)).double().eval()
    model = SwinTransformerV2(**SMALL, pretrained_window_sizes=(6, 0, 3, 2)).double().eval()
    for i in range(4):  # it has no norms of its outputs
        setattr(model, f'norm{i}', nn.Identity())
    weights = in_our_names(dict(theirs.named_parameters()))
    parameters = dict(model.named_parameters())
    assert weights.keys() - {'layernorm.weight', 'layernorm.bias'} == parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    their_parameters = {k: p for k, p in theirs.named_parameters() if 'layernorm.' not in k}
    expected = results(theirs(x).feature_maps, dict(input=x, **their_parameters))
    split = {k: v for k, v in expected.items() if 'output ' in k or k == 'input'}
    expected = split | in_our_names({k: v for k, v in expected.items() if k not in split})
    assert_same(own_results(model, x), expected)


@pytest.mark.parametrize('backend', ['reference', 'sdpa', 'cpu'])
def test_parity_under_every_backend(small_v2, backend):
    small_v2.double()
    x = torch.randn(2, 3, 97, 131, dtype=torch.float64)
    with use_backend(backend):
        assert_same(own_results(small_v2, x), official_results(small_v2, x, [4] * 4))


def test_without_biases_and_with_logit_scales_beyond_the_bound():
    model = randomized(SwinTransformerV2(**SMALL, qkv_bias=False)).double().eval()
    for name, parameter in model.named_parameters():
        if 'logit_scale' in name:
            nn.init.uniform_(parameter, math.log(100) - 1, math.log(100) + 1)
    assert not [name for name in model.state_dict() if name.endswith(('q_bias', 'v_bias'))]
    x = torch.randn(1, 3, 45, 50, dtype=torch.float64)
    assert_same(own_results(model, x), official_results(model, x, [4] * 4))


@pytest.mark.parametrize('window', [1, 2, 5])
def test_a_smaller_map_has_the_bias_of_a_smaller_window(small_v2, window):
    attention = small_v2.double().stages[0].blocks[0].attn.w_msa
    weights = {f'at.{name}': value for name, value in attention.state_dict().items()}
    for pretrained in (0, 4):
        attention.pretrained_window_size = pretrained
        expected = official_v2.position_bias(weights, 'at', window, pretrained)
        torch.testing.assert_close(attention.relative_position_bias(window), expected, **TIGHT)


@pytest.mark.parametrize('size', [(4, 4), (4, 400), (5, 7), (224, 224), (33, 65)])
def test_shapes_at_any_size(small_v2, size):
    for i, out in enumerate(small_v2(torch.randn(1, 3, *size))):
        stride = 4 * 2**i
        assert out.shape == (1, 24 * 2**i, -(-size[0] // stride), -(-size[1] // stride))
        assert out.is_contiguous() and out.isfinite().all()


@pytest.mark.parametrize(
    ('arch', 'parameters'),
    # The paper's, with a classifier of 1000 classes on the last norm and without the other norms.
    [('tiny', 28), ('small', 50), ('base', 88), ('large', 197), ('huge', 658), ('giant', 3002)],
)
def test_variants_have_the_papers_parameters(arch, parameters):
    with torch.device('meta'):
        model = SwinTransformerV2(arch=arch)
    width = model.num_features[-1]
    body = sum(p.numel() for p in model.parameters())
    other_norms = sum(2 * c for c in model.num_features[:-1])
    assert round((body - other_norms + 1000 * (width + 1)) / 1e6) == parameters


def test_the_largest_variants_have_more_norms():
    with torch.device('meta'):
        model = SwinTransformerV2(arch='h')
    extra = [i for i, block in enumerate(model.stages[2].blocks) if block.norm3 is not None]
    assert extra == [5, 11, 17]
    assert all(block.norm3 is None for i in (0, 1, 3) for block in model.stages[i].blocks)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_stays_near_double(small_v2, dtype):
    x = torch.randn(1, 3, 45, 50)
    expected = copy.deepcopy(small_v2).double()(x.double())
    for out, exact in zip(small_v2.to(dtype)(x.to(dtype)), expected, strict=True):
        assert out.dtype == dtype
        error = (out.double() - exact).norm() / exact.norm()
        assert error < {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_trains(small, dtype):
    model = randomized(SwinTransformerV2(**small)).train()
    with torch.autocast('cpu', dtype):
        outs = model(torch.randn(2, 3, 45, 50))
    sum(out.float().square().mean() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_memory_format_and_batch_do_not_change_the_numbers(small_v2):
    small_v2.double()
    x = torch.randn(3, 3, 45, 50, dtype=torch.float64)
    expected = small_v2(x)
    channels_last = small_v2(x.to(memory_format=torch.channels_last))
    one_by_one = [small_v2(image[None]) for image in x]
    for i, out in enumerate(expected):
        torch.testing.assert_close(channels_last[i], out, **TIGHT)
        torch.testing.assert_close(torch.cat([o[i] for o in one_by_one]), out, **TIGHT)
    assert [len(out) for out in small_v2(x[:0])] == [0, 0, 0, 0]


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize('out_indices', [(0,), (3,), (1, 2), (3, 1)])
def test_any_outputs_leave_no_parameter_unused(small, out_indices):
    whole = randomized(SwinTransformerV2(**small)).eval()
    model = SwinTransformerV2(**small, out_indices=out_indices).eval()
    weights = {k: v for k, v in whole.state_dict().items() if k in model.state_dict()}
    assert model.load_state_dict(weights, strict=True)
    x = torch.randn(1, 3, 40, 40)
    outs = model(x)
    for i, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, whole(x)[i])
    sum(out.sum() for out in outs).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 4])
def test_frozen_stages_hold_from_construction_on(small, frozen):
    model = SwinTransformerV2(**small, frozen_stages=frozen, use_abs_pos_embed=True)
    for _ in range(2):
        for name, parameter in model.named_parameters():
            stage = next((int(p) for p in name.replace('norm', '.').split('.') if p.isdigit()), -1)
            assert parameter.requires_grad == (stage >= frozen), name
        for i, stage in enumerate(model.stages):
            assert all(module.training == (i >= frozen) for module in stage.modules())
        assert model.train() is model
    model.eval()
    outs = model.train()(torch.randn(1, 3, 40, 40))
    if frozen < 4:
        sum(out.sum() for out in outs).backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('part', [True, 'attention', 'mlp', 'block', 'stage'])
def test_checkpointing_changes_memory_not_numbers(part):
    arguments = {**SMALL, 'drop_path_rate': 0.3}
    plain = randomized(SwinTransformerV2(**arguments)).double().train()
    recomputed = SwinTransformerV2(**arguments, use_checkpoint=part).double().train()
    recomputed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 40, 50, dtype=torch.float64)

    def drawn_alike(model):
        torch.manual_seed(3)
        return own_results(model, x)

    def saved(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(torch.randn(1, 3, 64, 64, dtype=torch.float64))
        return sum(sizes)

    assert_same(drawn_alike(recomputed), drawn_alike(plain))
    # The position biases' part is kept, so that it is not computed again.
    most = {'attention': 0.85, 'mlp': 0.7}.get(part, 0.55)
    assert saved(recomputed) < most * saved(plain)


@pytest.mark.parametrize('part', [False, True, 'attention', 'mlp', 'stage'])
def test_the_position_bias_is_tensor_cache_a_step(part):
    model = SwinTransformerV2(**SMALL, with_cp=part).train()
    calls = []
    for name, module in model.named_modules():
        if name.endswith('cpb_mlp'):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    for _ in range(2):
        sum(out.sum() for out in model(torch.randn(1, 3, 40, 40))).backward()
    assert len(calls) == 2 * len(set(calls)) == 16


def test_drop_path_drops_a_block_for_a_sample():
    model = randomized(SwinTransformerV2(**SMALL, drop_path_rate=1.0)).double().train()
    block = model.stages[-1].blocks[-1]
    drops = block.attn.drop, block.ffn.dropout_layer
    assert [drop.drop_prob for drop in drops] == [1, 1]
    x = torch.randn(2, 6, 192, dtype=torch.float64)
    for drop in drops:
        drop.drop_prob = 0.5
    torch.manual_seed(0)
    out = torch.stack([block(x, (2, 3)) for _ in range(30)])
    untouched = (out == x).all(-1).all(-1)
    assert 0 < untouched.sum() < untouched.numel()
    block.eval()
    attended = block.norm1(block.attn(x, (2, 3)))
    after = x + attended / 0.5  # what is kept is scaled after the norm, not before
    block.train()
    torch.manual_seed(0)
    halves = torch.stack([block._attention(x, (2, 3), block.attn.relative_position_bias((2, 3)))
                          for _ in range(10)])  # fmt: skip
    for sample in range(2):
        for half in halves[:, sample]:
            assert torch.equal(half, x[sample]) or torch.allclose(half, after[sample])


def test_a_blocks_drop_paths_are_called_after_its_norms(small_v2):
    block, called = small_v2.stages[0].blocks[0], []
    x = torch.randn(1, 64, 24)
    for name in ('attn', 'norm1', 'attn.drop', 'ffn', 'norm2', 'ffn.dropout_layer'):
        module = block.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    block(x, (8, 8))
    assert called == ['attn', 'norm1', 'attn.drop', 'ffn', 'norm2', 'ffn.dropout_layer']
    block.train()
    for drop in (block.attn.drop, block.ffn.dropout_layer):
        drop.drop_prob = 1.0
    assert block.attn(x, (8, 8)).any() and block.ffn(x).any()  # neither drops anything itself


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 2), (1,)])
def test_a_merging_opens_its_stage(small, out_indices):
    model = randomized(SwinTransformerV2(**small, out_indices=out_indices)).eval()
    called, last = [], max(out_indices)
    for name, module in model.named_modules():
        if name.endswith('downsample'):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(torch.randn(1, 3, 40, 40))
    assert called == [f'stages.{i}.downsample' for i in range(1, last + 1)]
    retired = {name for name, _ in model.named_buffers() if 'relative' not in name}
    assert all(int(name.split('.')[1]) > last for name in retired)
    assert any('downsample' in name for name in retired) == (last < 3)
    assert model.stages[0].downsample is None
    assert [stage.embed_dims for stage in model.stages] == [24, 24, 48, 96]
    assert [stage.out_channels for stage in model.stages] == [24, 48, 96, 192]
    x, shape = model.stages[1](torch.randn(1, 35, 24), (5, 7))
    assert x.shape == (1, 12, 48) and shape == (3, 4)


def test_strides_are_those_of_the_mergings(small):
    model = SwinTransformerV2(**small, patch_size=(4, 2), strides=((4, 2), 2, 1, 4))
    assert model.token_sides == [(4, 2), (8, 4), (8, 4), (32, 16)]
    sizes = [tuple(out.shape[2:]) for out in model(torch.randn(1, 3, 64, 64))]
    assert sizes == [(64 // height, 64 // width) for height, width in model.token_sides]


def test_buffers_follow_from_the_windows(small):
    windows, pretrained = (4, 3, 4, 5), (6, 0, 0, 2)
    arguments = {**small, 'window_size': windows, 'pretrained_window_sizes': pretrained}
    with torch.device('meta'):
        built, assigned = SwinTransformerV2(**arguments), SwinTransformerV2(**arguments)
    model = SwinTransformerV2(**arguments)
    assigned.load_state_dict(model.state_dict(), assign=True)
    built.to_empty(device='cpu').init_weights()
    other = {**small, 'window_size': 2}  # whose buffers are of other shapes
    loaded = SwinTransformerV2(**arguments)
    loaded.stages[0].blocks[0].attn.w_msa.relative_coords_table.zero_()
    loaded.load_state_dict(SwinTransformerV2(**other).state_dict(), strict=True)
    for backbone in (model, built, assigned, loaded):
        for i, (M, P) in enumerate(zip(windows, pretrained, strict=True)):
            attention = backbone.stages[i].blocks[1].attn.w_msa
            table, index = attention.relative_coords_table, attention.relative_position_index
            torch.testing.assert_close(table, v2_files.coordinates(M, P))
            assert torch.equal(index, relative_position_index(M))


def test_half_precision_rounds_no_coordinates(small_v2):
    attention = small_v2.half().stages[0].blocks[0].attn.w_msa
    expected = attention.relative_position_bias()
    attention.relative_coords_table.zero_()
    attention.train()
    assert torch.equal(attention.relative_position_bias(), expected)


def test_from_scratch_is_drawn_as_officially():
    model = SwinTransformerV2(arch='tiny', use_abs_pos_embed=True, extra_norm_every_n_blocks=2)
    model.init_weights()
    for name, p in model.named_parameters():
        if 'logit_scale' in name:
            assert torch.equal(p, torch.full_like(p, math.log(10)))
        elif 'blocks' in name and name.endswith(('bias', 'norm1.weight', 'norm2.weight')):
            assert not p.any(), name
        elif 'norm' in name:
            assert torch.equal(p, torch.full_like(p, name.endswith('weight'))), name
        elif 'projection' not in name:
            assert 0.01 < p.std() < 0.03 and p.abs().max() <= 2, name


def test_models_built_on_the_meta_device_come_to_life(small, small_v2):
    x = torch.randn(1, 3, 45, 70)
    with torch.device('meta'):
        assigned, drawn = SwinTransformerV2(**small), SwinTransformerV2(**small)
    assigned.load_state_dict(small_v2.state_dict(), assign=True)
    assert not any(t.is_meta for t in assigned.state_dict().values())
    torch.testing.assert_close(assigned.eval()(x), small_v2(x), rtol=0, atol=0)
    drawn.to_empty(device='cpu').init_weights()
    attention = drawn.stages[1].blocks[0].attn.w_msa
    torch.testing.assert_close(attention.logit_scale, torch.full((2, 1, 1), math.log(10)))
    assert not attention.q_bias.any() and not attention.v_bias.any()


# --- arguments -----------------------------------------------------------------------------------


def test_arch_and_official_spellings():
    by_arch = SwinTransformerV2(arch='Base', window_size=16)
    written_out = SwinTransformerV2(
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=[16, 16, 16, 8],
        in_chans=3,
        ape=False,
        use_checkpoint=False,
        img_size=256,
    )
    shapes = [{k: p.shape for k, p in m.named_parameters()} for m in (by_arch, written_out)]
    assert shapes[0] == shapes[1]
    arch = dict(embed_dims=16, depths=(1, 1), num_heads=(1, 2), extra_norm_every_n_blocks=1)
    model = SwinTransformerV2(arch=arch, strides=(4, 2), out_indices=(1,))
    assert model.stages[0].blocks[0].norm3 is not None
    arch.pop('extra_norm_every_n_blocks')
    assert SwinTransformerV2(arch=arch, out_indices=(1,)).stages[0].blocks[0].norm3 is None


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(window_szie=7), TypeError, r"'window_szie'; did you mean 'window_size'"),
        (dict(qk_scale=0.1), TypeError, r"'qk_scale'"),
        (dict(window_size=0), ArgumentError, 'window_size'),
        (
            dict(window_size=(7, 14)),
            ArgumentError,
            r'window_size=\(7, 14\): windows must be square',
        ),
        (
            dict(window_size=(7, 7, 7)),
            ArgumentError,
            r'window_size=\(7, 7, 7\) must be .* of the 4',
        ),
        (dict(window_size=[(7, 8)] * 4), ArgumentError, r'window_size=\(7, 8\): windows must be'),
        (dict(window_size=(7, 7, 7, 0)), ArgumentError, 'window_size'),
        (dict(window_size='7'), ArgumentError, "window_size='7'"),
        (dict(window_size=129), ArgumentError, 'window_size=129 must be .* 128 at most'),
        (dict(pretrained_window_sizes=8), ArgumentError, 'pretrained_window_sizes=8 must have'),
        (dict(pretrained_window_sizes=(8, 8)), ArgumentError, 'pretrained_window_sizes'),
        (dict(pretrained_window_sizes=(8, 8, 8, 1)), ArgumentError, 'from 2 on, or 0'),
        (dict(extra_norm_every_n_blocks=-1), ArgumentError, 'extra_norm_every_n_blocks=-1'),
        (dict(arch='huge', embed_dims=96), ArgumentError, "embed_dims=96 contradicts arch='huge'"),
        (dict(arch='vast'), ArgumentError, "arch='vast'"),
        (dict(arch=dict(embed_dims=96)), ArgumentError, 'arch=.* and maybe extra_norm_every_n'),
        (dict(num_heads=(3, 6, 12, 23)), ArgumentError, 'num_heads=23 does not divide'),
        (dict(depths=2), ArgumentError, 'depths=2 must be a list or tuple'),
        (dict(with_cp='blocks'), ArgumentError, "with_cp='blocks'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        SwinTransformerV2(**arguments)


@pytest.mark.parametrize(
    'given, sides',
    [
        ((4, 4), (4, 4, 4, 4)),
        ([8, 4, 4, 2], (8, 4, 4, 2)),
        (((8, 8), (4, 4), 4, 2), (8, 4, 4, 2)),
    ],
)
def test_windows_of_all_stages_or_of_each(given, sides):
    model = SwinTransformerV2(**{**SMALL, 'window_size': given})
    assert tuple(stage.blocks[0].attn.window_size for stage in model.stages) == sides
    assert model.window_size == (4 if len(set(sides)) == 1 else sides)


def test_two_windows_of_two_stages_are_one_each():
    two = dict(embed_dims=24, depths=(1, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
    model = SwinTransformerV2(**two, window_size=(4, 2))
    assert [stage.blocks[0].attn.window_size for stage in model.stages] == [4, 2]


def test_copies_and_pickles(small_v2):
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        expected = small_v2(x)
        size = len(pickle.dumps(small_v2))
        for twin in (copy.deepcopy(small_v2), pickle.loads(pickle.dumps(small_v2))):
            assert not twin.stages[0].blocks[0].attn.w_msa._bias_cache._entries
            for out, wanted in zip(twin(x), expected, strict=True):
                assert torch.equal(out, wanted)
        assert len(pickle.dumps(small_v2.train())) == size

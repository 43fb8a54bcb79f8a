"""Adapters, hooks and replaced functions act on this package's modules as on OpenMMLab's."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from mmdet.models.backbones import swin as stock
from small import SMALL, randomized
from torch import Tensor, nn
from torch.nn import functional as F

from swin_backbone import SwinTransformer, SwinTransformerV2, layers
from swin_backbone.layers.attention import why_attend_by_windows
from swin_backbone.layers.fused import why_block_unfused
from swin_backbone.ops.backends import use_backend
from swin_backbone.ops.recording import Definitions

SIZE = (97, 131)  # a multiple of the window at no stage
TIGHT = dict(rtol=1e-10, atol=1e-10)
W_MSA = ('qkv', 'softmax', 'attn_drop', 'proj', 'proj_drop')


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """This package's backbone and mmdet's, with the same random weights in float64."""
    theirs = randomized(stock.SwinTransformer(**SMALL)).double()
    theirs.eval()
    ours = SwinTransformer(**SMALL).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def results(model: nn.Module, size: tuple[int, int] = SIZE) -> list[Tensor]:
    """Features, and the gradients of the image and of every parameter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    outs = model(x)
    weights = [torch.randn(out.shape, generator=generator, dtype=out.dtype) for out in outs]
    loss = sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True))
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [*outs, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


def assert_same(models: tuple[nn.Module, nn.Module], size: tuple[int, int] = SIZE) -> None:
    found, expected = (results(model, size) for model in models)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1)
        torch.testing.assert_close(ours / scale, theirs / scale, **TIGHT)


def ending(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules of that name, in their order."""
    return [module for path, module in model.named_modules() if f'.{path}'.endswith(f'.{name}')]


def first_attention(model: nn.Module) -> nn.Module:
    return model.stages[0].blocks[0].attn


# --- modules in the place of others ---------------------------------------------------------------


class Scaled(nn.Module):
    """(IA)³, and scale and shift: what a module gives, channel by channel."""

    def __init__(self, inner: nn.Linear, shift: float = 0.0) -> None:
        super().__init__()
        self.inner = inner
        scale = torch.linspace(0.5, 1.5, inner.out_features, dtype=inner.weight.dtype)
        self.scale, self.shift = nn.Parameter(scale), shift

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape  # as some adapters insist
        return self.inner(x).view(B, N, -1) * self.scale + self.shift


class LowRank(nn.Linear):
    """A linear layer with an addition of rank 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum(-1, keepdim=True) * self.weight[:, 0]


def low_rank(inner: nn.Linear) -> LowRank:
    adapted = LowRank(inner.in_features, inner.out_features, inner.bias is not None).double()
    adapted.load_state_dict(inner.state_dict())
    return adapted


ADAPTERS = {
    'scale': Scaled,
    'scale and shift': lambda inner: Scaled(inner, 0.3),
    'in a sequence': lambda inner: nn.Sequential(inner, nn.Tanh()),
    'subclass': low_rank,
    'parametrized': lambda inner: nn.utils.parametrizations.weight_norm(inner),
}
PLACES = ('w_msa.qkv', 'w_msa.proj', 'layers.0.0', 'layers.1', 'reduction')


def adapt(model: nn.Module, place: str, adapter) -> None:
    name = place.split('.')[-1]
    for path, module in list(model.named_modules()):
        if f'.{path}'.endswith(f'.{place}'):
            parent = model.get_submodule(path.rpartition('.')[0])
            setattr(parent, name, adapter(module))


@pytest.mark.parametrize('adapter', ADAPTERS)
@pytest.mark.parametrize('place', PLACES)
def test_adapters_as_in_mmdet(pair, place, adapter):
    for model in pair:
        adapt(model, place, ADAPTERS[adapter])
    assert_same(pair)


@pytest.mark.parametrize('size', [SIZE, (128, 128), (4, 4), (33, 7)])
def test_an_adapter_of_queries_at_other_sizes(pair, size):
    for model in pair:
        adapt(model, 'w_msa.qkv', low_rank)
    assert why_attend_by_windows(first_attention(pair[0])) is None  # it is still one operator
    assert_same(pair, size)


@pytest.mark.parametrize('cls', [SwinTransformer, SwinTransformerV2])
@torch.no_grad()
def test_a_model_with_adapters_is_exported_for_every_size(cls):
    # Symbolic sizes take an exporter minutes, stage by stage.
    arguments = dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2), window_size=4)
    arguments |= dict(strides=(4, 2), out_indices=(0, 1))
    model = randomized(cls(**arguments, pad_small_map=True)).eval()
    adapt(model, 'w_msa.qkv', lambda inner: Scaled(inner, 0.3))
    x = torch.randn(1, 3, *SIZE)
    sides = {i: torch.export.Dim(f'side{i}', min=33, max=2048) for i in (2, 3)}
    program = torch.export.export(model, (x,), dynamic_shapes=(sides,)).module()
    traced = torch.jit.trace(model, x, check_trace=False)
    for size in [SIZE, (64, 64), (140, 90)]:
        x = torch.randn(1, 3, *size)
        for run in (program, traced):
            for ours, exact in zip(run(x), model(x), strict=True):
                torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('cls', [SwinTransformer, SwinTransformerV2])
def test_dynamic_quantization(cls):
    model = randomized(cls(**SMALL)).eval()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    assert callable(quantized.stages[0].blocks[0].attn.w_msa.qkv.bias)  # a method there
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        for ours, exact in zip(quantized(x), model(x), strict=True):
            assert 0 < (ours - exact).abs().mean() < 0.02 * exact.abs().mean()


class Merged(nn.Linear):
    """A linear layer scaled by an adapter, as one."""

    def __init__(self, inner: nn.Linear, scale: float) -> None:
        super().__init__(inner.in_features, inner.out_features, inner.bias is not None)
        self.load_state_dict(inner.state_dict())
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)


class Factor(nn.Module):
    def __init__(self, inner: nn.Linear, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


@pytest.mark.parametrize('place', [*PLACES, 'cpb_mlp.2'])
def test_adapters_in_v2(place):
    found = []
    for adapter in (Factor, Merged):
        torch.manual_seed(0)
        model = randomized(SwinTransformerV2(**SMALL)).eval()
        adapt(model, place, lambda inner, adapter=adapter: adapter(inner, 0.5))
        found.append(list(model.double()(torch.ones(1, 3, *SIZE).double().cumsum(2))))
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, **TIGHT)


class Mixed(nn.Module):
    """A module that sees which tokens are a window."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return x + x.mean(1, keepdim=True)


@pytest.mark.parametrize('name', ['qkv', 'proj', 'proj_drop', 'softmax', 'attn_drop'])
def test_a_module_that_sees_the_window(pair, name):
    for model in pair:
        adapt(model, f'w_msa.{name}', Mixed)
    assert_same(pair)


def test_settings_that_are_changed_afterwards(pair):
    for model in pair:
        for block in model.stages[0].blocks:
            block.ffn.add_identity = False
        for attention in ending(model, 'w_msa')[3:]:
            attention.softmax.dim = -2
            attention.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    assert_same(pair)


def test_padding_of_a_merging_is_replaced(pair):
    class Replicated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), 'replicate')

    for model in pair:
        for merging in ending(model, 'downsample'):
            if merging is not None:
                merging.adap_padding = Replicated()
    assert_same(pair)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize('place', ['attn', 'ffn', 'w_msa', 'cpb_mlp', 'blocks.1'])
@pytest.mark.parametrize('part', [False, True, 'attention', 'stage'])
def test_wrappers_in_v2(place, part):
    model = randomized(SwinTransformerV2(**SMALL, with_cp=part, drop_path_rate=0.5)).double()
    torch.manual_seed(1)
    expected = results(model.train())
    with torch.no_grad():
        kept = model.eval()(torch.ones(1, 3, *SIZE).double().cumsum(2))
    adapt(model, place, Wrapped)
    torch.manual_seed(1)
    for ours, exact in zip(results(model.train()), expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        again = model.eval()(torch.ones(1, 3, *SIZE).double().cumsum(2))
    for ours, exact in zip(again, kept, strict=True):
        torch.testing.assert_close(ours, exact, **TIGHT)


# --- hooks ----------------------------------------------------------------------------------------


def amplified(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
    return out * 1.25


@pytest.mark.parametrize('name', [*(f'w_msa.{name}' for name in W_MSA), 'w_msa', 'attn.drop'])
def test_hooks_act_as_in_mmdet(pair, name):
    for model in pair:
        for module in ending(model, name):
            module.register_forward_hook(amplified)
    assert_same(pair)


@pytest.mark.parametrize(
    'name',
    [*(f'w_msa.{name}' for name in W_MSA), 'w_msa', 'attn.drop', 'attn', 'ffn', 'downsample',
     'sampler', 'norm', 'reduction', 'patch_embed', 'adap_padding', 'projection', 'norm1',
     'stages.1', 'drop_after_pos', 'norm3', 'layers.0.1', 'dropout_layer'],
)  # fmt: skip
def test_hooks_see_what_mmdet_hands_the_module(pair, name):
    seen = [], []
    for model, calls in zip(pair, seen, strict=True):
        for module in ending(model, name):
            # Positional arguments as shapes, then those by keyword.
            module.register_forward_pre_hook(
                lambda _, args, kwargs, calls=calls: calls.append(
                    [tuple(a.shape) if isinstance(a, Tensor) else a for a in args] + sorted(kwargs)
                ),
                with_kwargs=True,
            )
    with torch.no_grad():
        for model in pair:
            model(torch.randn(2, 3, *SIZE, dtype=torch.float64))
    ours, theirs = seen
    assert theirs and [call[:1] for call in ours] == [call[:1] for call in theirs]


def test_hooks_on_all_modules_see_softmax(pair):
    names = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: names.append(type(module).__name__)
    )
    try:
        outs = pair[0](torch.randn(1, 3, *SIZE, dtype=torch.float64))
    finally:
        handle.remove()
    assert names.count('Softmax') == 8 and names.count('WindowMSA') == 8 and len(outs) == 4


def test_a_counter_alone_does_not_change_the_operator(pair):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        pair[0](torch.randn(1, 3, *SIZE, dtype=torch.float64))
    operators = {str(name) for name in counter.get_flop_counts()['Global']}
    assert 'swin_backbone.shifted_window_attention' in operators


@pytest.mark.parametrize('name', [*(f'w_msa.{name}' for name in W_MSA), 'w_msa', 'attn.drop'])
@pytest.mark.parametrize('training', [False, True])
def test_hooks_fire_in_v2(name, training):
    model = SwinTransformerV2(**SMALL, with_cp=training, drop_path_rate=0.0)
    randomized(model).double().train(training)
    x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    seen, plain = [], model(x)
    for module in ending(model, name):
        module.register_forward_hook(lambda *_: seen.append(1))
    for hooked, exact in zip(model(x), plain, strict=True):
        torch.testing.assert_close(hooked, exact, **TIGHT)
    assert len(seen) == 8


def test_the_bias_of_a_hooked_network_is_not_kept():
    model = randomized(SwinTransformerV2(**SMALL)).eval()
    x, seen = torch.randn(1, 3, *SIZE), []
    with torch.no_grad():
        first = model(x)
        for network in ending(model, 'cpb_mlp'):
            network.register_forward_hook(lambda m, i, out: seen.append(1) or out * 2)
        second = model(x)
        model(x)
    assert len(seen) == 16
    assert (first[-1] - second[-1]).abs().max() > 1e-3


# --- replaced methods and functions ---------------------------------------------------------------


def doubled(self: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
    return x * 2


CLASSES = {
    'WindowMSA': (layers.WindowMSA, stock.WindowMSA),
    'ShiftWindowMSA': (layers.ShiftWindowMSA, stock.ShiftWindowMSA),
    'FFN': (layers.FFN, stock.FFN),
    **{cls.__name__: (cls,) for cls in (nn.GELU, nn.LayerNorm, nn.Softmax, nn.Dropout)},
}


@pytest.mark.parametrize('name', CLASSES)
def test_replaced_on_the_class(pair, name, monkeypatch):
    before = results(pair[0])
    for cls in CLASSES[name]:
        monkeypatch.setattr(cls, 'forward', doubled)
    assert_same(pair)
    assert (results(pair[0])[3] - before[3]).abs().max() > 1e-3
    monkeypatch.undo()
    assert why_attend_by_windows(first_attention(pair[0])) is None
    for again, first in zip(results(pair[0]), before, strict=True):
        assert torch.equal(again, first)


def test_linear_replaced_on_the_class(pair, monkeypatch):
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, 'forward', lambda self, x: forward(self, x) * 1.1 + 0.1)
    assert_same(pair)


@pytest.mark.parametrize('name', ['linear', 'layer_norm', 'gelu', 'softmax', 'dropout', 'unfold'])
def test_replaced_function(pair, name, monkeypatch):
    function = getattr(F, name)
    monkeypatch.setattr(F, name, lambda *args, **kwargs: function(*args, **kwargs) * 1.1)
    assert_same(pair)


def test_replaced_padding(pair, monkeypatch):
    pad = F.pad
    monkeypatch.setattr(F, 'pad', lambda x, sides: pad(x, sides, value=0.5))
    assert_same(pair)


@pytest.mark.parametrize('kind', [nn.Linear, nn.LayerNorm, nn.GELU, nn.Softmax, nn.Dropout])
def test_replaced_call_of_a_class(pair, kind, monkeypatch):
    call = nn.Module.__call__
    monkeypatch.setattr(kind, '__call__', lambda self, x: call(self, x) * 1.1)
    assert_same(pair)


@pytest.mark.parametrize('name', ['__matmul__', 'softmax'])
def test_replaced_method_of_tensors(pair, name, monkeypatch):
    function = getattr(Tensor, name)
    monkeypatch.setattr(Tensor, name, lambda *args, **kwargs: function(*args, **kwargs) * 1.1)
    assert_same(pair)


@pytest.mark.parametrize('function', [F.linear, F.gelu, F.softmax, Tensor.__matmul__])
def test_function_modes(pair, function):
    class Amplified(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, called, types, args=(), kwargs=None):
            out = called(*args, **(kwargs or {}))
            return out * 1.1 if called is function else out

    with Amplified():
        assert_same(pair)
    with torch.device('cpu'):  # a mode, too
        assert why_attend_by_windows(first_attention(pair[0])) is None


def test_windows_made_by_an_instance(pair):
    for model in pair:
        for module in ending(model, 'attn'):
            partition = module.window_partition
            module.window_partition = lambda x, partition=partition: partition(x) * 2
    assert_same(pair)


def test_a_subclass_with_another_forward_is_called(pair):
    class Own(layers.WindowMSA):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x, mask) * 2

    class TheirOwn(stock.WindowMSA):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x, mask) * 2

    for model, cls in zip(pair, (Own, TheirOwn), strict=True):
        for module in ending(model, 'w_msa'):
            module.__class__ = cls
    assert_same(pair)


def test_windows_made_by_a_subclass(pair):
    def flipped(parent: type) -> type:
        class Flipped(parent):
            def window_partition(self, x):
                return super().window_partition(x).flip(1)

            def window_reverse(self, windows, H, W):
                return super().window_reverse(windows.flip(1), H, W)

        return Flipped

    for model, parent in zip(pair, (layers.ShiftWindowMSA, stock.ShiftWindowMSA), strict=True):
        for module in ending(model, 'attn'):
            module.__class__ = flipped(parent)
    assert_same(pair)


def test_a_function_that_was_replaced_before_counts_too(monkeypatch):
    places = (nn.GELU, 'forward'), (F, 'linear'), (F, 'softmax')
    assert Definitions(*places).replaced() is None
    monkeypatch.setattr(nn.GELU, 'forward', doubled)
    assert Definitions(*places).replaced() == 'GELU.forward'
    monkeypatch.undo()
    monkeypatch.setattr(F, 'linear', functools.partial(F.linear))
    assert Definitions(*places).replaced() == 'torch.nn.functional.linear'


@pytest.mark.parametrize('fused', [False, True])
def test_reasons(pair, fused, monkeypatch):
    """What stops a block from running fused also names itself."""
    block, x = pair[0].stages[0].blocks[1], torch.randn(1, 64, 24, dtype=torch.float64)

    def why() -> str | None:
        if fused:
            return why_block_unfused(block, x, (8, 8))
        return why_attend_by_windows(block.attn)

    assert why() is None
    monkeypatch.setattr(F, 'linear', lambda *args: None)
    assert why() == 'torch.nn.functional.linear is replaced'
    monkeypatch.undo()
    monkeypatch.setattr(layers.WindowMSA, 'forward', doubled)
    assert 'WindowMSA' in why()
    monkeypatch.undo()
    with use_backend('reference'):
        assert fused is (why() is not None)
    assert why() is None

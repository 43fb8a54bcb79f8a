"""Deformable convolution against mmcv's compiled operators and against its definition."""

from __future__ import annotations

import compiled
import mmcv.ops.deform_conv
import mmcv.ops.modulated_deform_conv
import pytest
import torch
from agreement import agree, bilinear
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

from swin_backbone import mmcv_ext as ours

MODULES = (mmcv.ops.deform_conv, mmcv.ops.modulated_deform_conv)


class Drawn:
    """A convolution of random sizes: its arguments by name, and its tensors."""

    def __init__(self, choose, dtype):
        sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
        self.kernel, self.stride, self.dilation = (choose(sizes) for _ in range(3))
        self.padding = choose(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        self.groups, self.deform_groups = choose(st.tuples(*[st.sampled_from([1, 2])] * 2))
        self.batch = choose(st.integers(1, 3))
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        height, width = (n + choose(st.integers(0, 4)) for n in reach)
        random = torch.Generator().manual_seed(choose(st.integers(0, 99)))

        def draw(*size):
            return torch.randn(size, generator=random, dtype=dtype)

        places = self.deform_groups * self.kernel[0] * self.kernel[1]
        size = [
            (n + 2 * p - r) // s + 1
            for n, p, r, s in zip((height, width), self.padding, reach, self.stride, strict=True)
        ]
        self.images = draw(self.batch, 4, height, width)
        self.weight = draw(2, 4 // self.groups, *self.kernel)
        self.bias = draw(2)
        self.mask = draw(self.batch, places, *size)
        # Some on pixels' centres, such as the -1 of padding, and some far off the map.
        self.offset = 2 * draw(self.batch, 2 * places, *size)
        self.offset = torch.where(draw(*self.offset.shape) > 0.5, self.offset.round(), self.offset)
        self.grad = draw(self.batch, 2, *size)

    def names(self, modulated):
        """The compiled operators' arguments that are not tensors."""
        pairs = dict(kernel=self.kernel, stride=self.stride, pad=self.padding)
        pairs['dilation'] = self.dilation
        groups = dict(group=self.groups, deformable_group=self.deform_groups)
        if modulated:
            return groups | {
                f'{k}_{side}': v[i] for k, v in pairs.items() for i, side in enumerate('hw')
            }
        short = dict(kernel='k', stride='d', pad='pad', dilation='dilation')
        return groups | {
            f'{short[k]}{side}': v[i] for k, v in pairs.items() for i, side in enumerate('HW')
        }


def results(module, drawn: Drawn, bias: bool) -> dict[str, torch.Tensor]:
    """All that the operators write, where they add something that was there."""
    x, weight, offset, mask, grad = (
        getattr(drawn, name) for name in ('images', 'weight', 'offset', 'mask', 'grad')
    )
    there = {name: torch.full_like(t, 0.5) for name, t in dict(x=x, weight=weight).items()}
    out, none = torch.full_like(grad, 7), x.new_empty(0)
    names = drawn.names(modulated=True) | dict(with_bias=bias)
    module.modulated_deform_conv_forward(
        x, weight, drawn.bias, none, offset, mask, out, none.clone(), **names
    )
    written = dict(modulated=out)
    grads = dict(there, bias=torch.full_like(drawn.bias, 0.5))
    grads |= dict(offset=torch.full_like(offset, 7), mask=torch.full_like(mask, 7))
    grads = {name: tensor.clone() for name, tensor in grads.items()}
    module.modulated_deform_conv_backward(
        *(x, weight, drawn.bias, none, offset, mask, none.clone()),
        *(grads[name] for name in ('x', 'weight', 'bias', 'offset', 'mask')),
        grad,
        **names,
    )
    written |= {f'modulated, {name}': tensor for name, tensor in grads.items()}
    names = drawn.names(modulated=False) | dict(im2col_step=drawn.batch)
    written['plain'] = torch.full_like(grad, 7)
    module.deform_conv_forward(
        x, weight, offset, written['plain'], none.clone(), none.clone(), **names
    )
    written['plain, x'], written['plain, offset'] = there['x'].clone(), torch.full_like(offset, 7)
    module.deform_conv_backward_input(
        *(x, offset, grad, written['plain, x'], written['plain, offset'], weight, none.clone()),
        **names,
    )
    written['plain, weight'] = there['weight'].clone()
    module.deform_conv_backward_parameters(
        *(x, offset, grad, written['plain, weight'], none.clone(), none.clone()),
        scale=0.3,
        **names,
    )
    return written


@settings(max_examples=25)
@given(st.data(), st.sampled_from([torch.float64, torch.float32]), st.booleans())
def test_agrees_with_compiled_operators(data, dtype, bias):
    drawn = Drawn(data.draw, dtype)
    wanted = results(compiled.load(), drawn, bias)
    for name, tensor in results(ours, drawn, bias).items():
        # The scale of 0.3 is a float32 there.
        of_scale = torch.float32 if name == 'plain, weight' else dtype
        agree(tensor, wanted[name], of_scale)


def definition(drawn: Drawn, x, weight, offset, mask, bias):
    """Each output pixel, and each place of the kernel, one by one."""
    B, channels, h, w = drawn.grad.shape
    kh, kw = drawn.kernel
    inputs, outputs = x.shape[1] // drawn.groups, channels // drawn.groups
    pixels = []
    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, (B, channels, h, w))).tolist():
        total = bias[o]
        for c, u, v in torch.cartesian_prod(*map(torch.arange, (inputs, kh, kw))).tolist():
            channel = o // outputs * inputs + c
            group = channel // (x.shape[1] // drawn.deform_groups)
            place = (group * kh + u) * kw + v
            y = i * drawn.stride[0] - drawn.padding[0] + u * drawn.dilation[0]
            z = j * drawn.stride[1] - drawn.padding[1] + v * drawn.dilation[1]
            at = y + offset[b, 2 * place, i, j], z + offset[b, 2 * place + 1, i, j]
            sample = bilinear(x[b, channel], *at) * mask[b, place, i, j]
            total = total + weight[o, c, u, v] * sample
        pixels.append(total)
    return torch.stack(pixels).view(B, channels, h, w)


@pytest.mark.parametrize('groups', [1, 2])
def test_agrees_with_the_definition(groups):
    """Where no compiled operator is there to compare with: odd sizes, offsets off the map."""

    def choose(strategy):
        return next(chosen)

    chosen = iter([(2, 3), (2, 1), (1, 2), (1, 0), (groups, groups), 2, 1, 2, 0])
    drawn = Drawn(choose, torch.float64)
    tensors = [drawn.images, drawn.weight, drawn.offset, drawn.mask, drawn.bias]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    wanted = definition(drawn, *leaves)
    grads = torch.autograd.grad(wanted, leaves, drawn.grad)
    found = results(ours, drawn, bias=True)
    agree(found['modulated'], wanted)
    kept = dict(x=0.5, weight=0.5, bias=0.5, offset=0, mask=0)
    for (name, before), grad in zip(kept.items(), (grads[i] for i in (0, 1, 4, 2, 3)), strict=True):
        agree(found[f'modulated, {name}'], before + grad)
    leaves = [*leaves[:3], torch.ones_like(drawn.mask), torch.zeros_like(drawn.bias)]
    wanted = definition(drawn, *leaves)
    grads = torch.autograd.grad(wanted, leaves[:3], drawn.grad)
    agree(found['plain'], wanted)
    agree(found['plain, x'], 0.5 + grads[0])
    agree(found['plain, weight'], 0.5 + 0.3 * grads[1])
    agree(found['plain, offset'], grads[2])


def test_without_offsets_it_is_a_convolution():
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 3)
    offset, out = torch.zeros(2, 18, 3, 3), torch.empty(2, 6, 3, 3)
    drawn = dict(kW=3, kH=3, dW=2, dH=2, padW=1, padH=1, dilationW=1, dilationH=1)
    none = x.new_empty(0)
    ours.deform_conv_forward(
        *(x, weight, offset, out, none, none), **drawn, group=2, deformable_group=1, im2col_step=2
    )
    agree(out, torch.nn.functional.conv2d(x, weight, None, 2, 1, 1, 2), torch.float32)


@pytest.fixture
def _ours(monkeypatch):
    for module in MODULES:
        monkeypatch.setattr(module, 'ext_module', ours)


LAYERS = [
    lambda: DeformConv2dPack(4, 6, 3, stride=2, padding=1, groups=2, deform_groups=2),
    lambda: ModulatedDeformConv2dPack(4, 6, 3, padding=2, dilation=2, deform_groups=4, bias=True),
]


@pytest.mark.parametrize('make', LAYERS, ids=['plain', 'modulated'])
def test_layers_of_mmcv(make, monkeypatch):
    """Of images that are not contiguous; forward and backward pass."""
    layer = make()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    images = torch.randn(2, 9, 7, 4).permute(0, 3, 1, 2).requires_grad_()
    found = []
    for module in (ours, compiled.load()):
        for place in MODULES:
            monkeypatch.setattr(place, 'ext_module', module)
        out = layer(images.contiguous())
        grads = torch.autograd.grad(out.square().sum(), [images, *layer.parameters()])
        found.append((out, *grads))
    for mine, theirs in zip(*found, strict=True):
        agree(mine, theirs, torch.float32)


@pytest.mark.usefixtures('_ours')
@pytest.mark.parametrize('make', LAYERS, ids=['plain', 'modulated'])
def test_layers_of_mmcv_are_differentiated_right(make):
    layer = make().double()
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    images = torch.randn(1, 4, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, images)


@pytest.mark.usefixtures('_ours')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    images = torch.randn(2, 4, 5, 6)
    with torch.autocast('cpu', dtype):
        out = layer(images)
    assert out.dtype == dtype
    agree(out, layer(images), dtype)


@pytest.mark.usefixtures('_ours')
def test_autocast_of_the_caller_changes_nothing():
    """The operator computes in the dtype of what it is given, as a compiled one does."""
    x, weight, offset = torch.randn(1, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.randn(1, 18, 3, 3)
    out = mmcv.ops.deform_conv2d(x, offset, weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(mmcv.ops.deform_conv2d(x, offset, weight), out)


@pytest.mark.usefixtures('_ours')
def test_no_images():
    x, weight = torch.randn(0, 4, 5, 5), torch.randn(3, 4, 3, 3)
    offset, mask = torch.randn(0, 18, 3, 3), torch.randn(0, 9, 3, 3)
    none, out = x.new_empty(0), torch.empty(0, 3, 3, 3)
    names = dict(kernel_h=3, kernel_w=3, stride_h=1, stride_w=1, pad_h=0, pad_w=0)
    names |= dict(dilation_h=1, dilation_w=1, group=1, deformable_group=1, with_bias=False)
    ours.modulated_deform_conv_forward(x, weight, none, none, offset, mask, out, none, **names)


@pytest.mark.usefixtures('_ours')
def test_numbers_that_are_none():
    """An offset that is not a number, or too large for an integer, samples nothing."""
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 3, 3)
    offset[0, :, 0] = torch.tensor([float('nan'), float('inf'), -1e30])
    out = mmcv.ops.deform_conv2d(x, offset, weight)
    assert out[0, 0].tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]


@pytest.mark.usefixtures('_ours')
def test_sizes_that_do_not_fit():
    x, weight = torch.ones(1, 4, 5, 5), torch.ones(2, 4, 3, 3)
    with pytest.raises(RuntimeError, match=r'offset must have the shape \(1, 18, 3, 3\)'):
        mmcv.ops.deform_conv2d(x, torch.zeros(1, 18, 5, 5), weight)
    with pytest.raises(RuntimeError, match='4 channels cannot be divided into 3 groups'):
        mmcv.ops.deform_conv2d(x, torch.zeros(1, 18, 3, 3), torch.ones(3, 1, 3, 3), 1, 0, 1, 3)


def test_batches_in_parts(monkeypatch):
    """A batch too large for one part gives what it gives at once."""

    def choose(strategy):
        return next(chosen)

    chosen = iter([(2, 3), (1, 1), (1, 2), (1, 0), (1, 2), 3, 1, 2, 0])
    drawn = Drawn(choose, torch.float64)
    whole = results(ours, drawn, bias=True)
    monkeypatch.setattr(ours.deformable, 'batches', lambda n, _: [slice(0, 2), slice(2, n)])
    for name, tensor in results(ours, drawn, bias=True).items():
        agree(tensor, whole[name])

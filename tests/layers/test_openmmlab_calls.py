"""Building blocks take OpenMMLab's calls: its signatures, attributes and numbers."""

from __future__ import annotations

import inspect

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN as StockFFN
from mmdet.models import layers as stock_layers
from mmdet.models.backbones import swin as stock
from small import randomized
from torch import nn

from swin_backbone import ArgumentError, layers
from swin_backbone.layers.attention import WindowSize
from swin_backbone.layers.embedding import AdaptivePadding

TIGHT = dict(rtol=1e-10, atol=1e-10)
LN, GELU = dict(type='LN'), dict(type='GELU')
DROP = dict(type='DropPath', drop_prob=0.25)
# This package's class, OpenMMLab's, positional arguments in OpenMMLab's order, shapes of a call.
BLOCKS = {
    'WindowMSA': (
        *(layers.WindowMSA, stock.WindowMSA),
        (24, 3, (4, 4), False, 0.2, 0.0, 0.0, None),
        ((6, 16, 24),),
    ),
    'WindowMSA of a rectangle': (
        *(layers.WindowMSA, stock.WindowMSA),
        (24, 3, (3, 5)),
        ((6, 15, 24), (3, 15, 15)),
    ),
    'ShiftWindowMSA': (
        *(layers.ShiftWindowMSA, stock.ShiftWindowMSA),
        (24, 3, 4, 2, False, 0.2, 0.0, 0.0, DROP, None),
        ((2, 63, 24), (7, 9)),
    ),
    'SwinBlock': (
        *(layers.SwinBlock, stock.SwinBlock),
        (24, 3, 40, 4, True, True, None, 0.0, 0.0, 0.0, GELU, LN, False, None),
        ((2, 12, 24), (3, 4)),  # no larger than the window
    ),
    'SwinBlockSequence': (
        *(layers.SwinBlockSequence, stock.SwinBlockSequence),
        (24, 3, 40, 2, 4, True, None, 0.0, 0.0, [0.0, 0.1], None, GELU, LN, True, None),
        ((2, 12, 24), (3, 4)),
    ),
    'PatchMerging': (
        *(layers.PatchMerging, stock_layers.PatchMerging),
        (6, 10, 2, None, 'corner', 1, False, LN, None),
        ((2, 35, 6), (5, 7)),
    ),
    'PatchMerging with padding': (
        *(layers.PatchMerging, stock_layers.PatchMerging),
        (6, 10, 3, 2, 1, 1, True, None),
        ((2, 63, 6), (7, 9)),
    ),
    'PatchMerging, padded all around': (
        *(layers.PatchMerging, stock_layers.PatchMerging),
        (6, 10, (3, 2), (2, 3), 'same', 2),
        ((2, 63, 6), (7, 9)),
    ),
    'PatchEmbed': (
        *(layers.PatchEmbed, stock_layers.PatchEmbed),
        (3, 16, 'Conv2d', 4, 4, 'corner', 1, False, LN, 224, None),
        ((2, 3, 21, 34),),
    ),
    'PatchEmbed of its defaults': (
        *(layers.PatchEmbed, stock_layers.PatchEmbed),
        (),
        ((1, 3, 33, 40),),
    ),
    'PatchEmbed with overlap': (
        *(layers.PatchEmbed, stock_layers.PatchEmbed),
        (3, 16, 'Conv2d', (7, 5), (4, 2), (3, 1), 1, True, None, (224, 200)),
        ((2, 3, 21, 34),),
    ),
    'PatchEmbed, padded all around': (
        *(layers.PatchEmbed, stock_layers.PatchEmbed),
        (3, 16, 'Conv2d', 3, 2, 'same', 2, True, None, 31),
        ((2, 3, 21, 34),),
    ),
    'FFN': (
        *(layers.FFN, StockFFN),
        (24, 40, 3, GELU, 0.0, DROP, True, None, 0.5),
        ((2, 5, 24), (2, 5, 24)),
    ),
    'FFN of its defaults': (*(layers.FFN, StockFFN), (), ((2, 5, 256),)),
}


def call(name: str) -> list:
    """Inputs of a block: tensors for shapes of three or more numbers, else grids."""
    shapes = BLOCKS[name][3]
    return [
        torch.randn(shape, dtype=torch.float64) if len(shape) > 2 else shape for shape in shapes
    ]


@pytest.mark.parametrize('name', BLOCKS)
def test_positional_arguments_and_numbers(name):
    ours, theirs, arguments, _ = BLOCKS[name]
    theirs = randomized(theirs(*arguments)).double()
    theirs.eval()
    ours = ours(*arguments).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    inputs = call(name)
    found, expected = (torch.utils._pytree.tree_leaves(m(*inputs)) for m in (ours, theirs))
    for out, exact in zip(found, expected, strict=True):
        if isinstance(exact, torch.Tensor):
            torch.testing.assert_close(out, exact, **TIGHT)
        else:
            assert out == exact


@pytest.mark.parametrize('name', [name for name in BLOCKS if name.isalpha()])
def test_signatures(name):
    """Names, order and defaults are OpenMMLab's; what is added is for keywords."""
    ours, theirs, *_ = BLOCKS[name]
    found = inspect.signature(ours).parameters
    expected = inspect.signature(inspect.unwrap(theirs.__init__)).parameters
    own = [p for p in found.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [p.name for p in own] == [name for name in expected if name != 'self']
    for parameter in own:
        assert parameter.default == expected[parameter.name].default, parameter
    called = list(inspect.signature(inspect.unwrap(theirs.forward)).parameters)
    assert list(inspect.signature(ours.forward).parameters)[: len(called)] == called


def test_windows_are_partitioned_as_in_mmdet():
    ours, theirs = layers.ShiftWindowMSA(24, 3, 4), stock.ShiftWindowMSA(24, 3, 4)
    x = torch.randn(2, 8, 12, 24)
    windows = ours.window_partition(x)
    assert torch.equal(windows, theirs.window_partition(x))
    assert torch.equal(ours.window_reverse(windows, 8, 12), x)


def test_sides_of_a_window():
    window = layers.WindowMSA(24, 3, 7).window_size
    assert window == 7 == window and window == (7, 7) and tuple(window) == (7, 7)
    assert window != 6 and window != (7, 6)
    assert window[0] == window[1] == 7 and int(window) == 7 and list(range(9))[window] == 7
    assert hash(window) == hash((7, 7)) and f'{window}' == '(7, 7)'
    height, width = layers.WindowMSA(24, 3, (3, 5)).window_size
    assert (height, width) == (3, 5) and WindowSize.of((3, 5)) != 3
    with pytest.raises(TypeError, match='3×5'):
        int(WindowSize.of((3, 5)))
    attention = layers.ShiftWindowMSA(24, 3, 7)
    assert attention.window_size == 7 and isinstance(attention.window_size, int)


@pytest.mark.parametrize('small', [False, True])
def test_pad_small_map_is_for_keywords(small):
    arguments = dict(embed_dims=24, num_heads=3, feedforward_channels=40)
    for cls in (layers.SwinBlock, layers.SwinBlockV2):
        assert cls(**arguments, pad_small_map=small).attn.pad_small_map is small
    stage = layers.SwinBlockSequence(**arguments, depth=1, pad_small_map=small)
    assert stage.blocks[0].attn.pad_small_map is small


def test_widths_of_a_stage():
    stage = layers.SwinBlockSequence(24, 3, 40, 1, downsample=layers.PatchMerging(24, 48))
    assert (stage.embed_dims, stage.out_channels) == (24, 48)
    assert layers.SwinBlockSequence(24, 3, 40, 1).out_channels == 24
    stage = layers.SwinBlockV2Sequence(24, 3, 40, 1, downsample=layers.PatchMerging(24, 48))
    assert (stage.embed_dims, stage.out_channels) == (24, 48)


@pytest.mark.parametrize(
    'layer, kind',
    [(DROP, 'DropPath'), (dict(type='Dropout', drop_prob=0.5), 'Dropout'), (None, 'Identity')],
)
def test_dropout_layers(layer, kind):
    attention = layers.ShiftWindowMSA(24, 3, 4, dropout_layer=layer)
    assert type(attention.drop).__name__ == kind
    assert attention.train()(torch.randn(2, 16, 24), (4, 4)).shape == (2, 16, 24)


def test_what_is_wrong_is_named():
    with pytest.raises(ArgumentError, match=r"dropout_layer=.*dict\(type='DropPath'"):
        layers.ShiftWindowMSA(24, 3, 4, dropout_layer=dict(type='Nothing'))
    with pytest.raises(ArgumentError, match="padding='edge' must be one of"):
        AdaptivePadding(padding='edge')
    with pytest.raises(ArgumentError, match='num_fcs=1'):
        layers.FFN(num_fcs=1)


def test_a_whole_block_of_another_dropout_is_not_fused():
    block = layers.SwinBlock(24, 3, 40, 4).train()
    block.attn.drop = nn.Dropout(1.0)
    x = torch.randn(2, 16, 24)
    assert torch.equal(block._attention(x, (4, 4)), x)
    torch.testing.assert_close(block(x, (4, 4)), block._mlp(x))

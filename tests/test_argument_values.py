"""Values of arguments: what is taken for a number, and what messages say of the rest."""

from __future__ import annotations

import decimal

import numpy as np
import pytest
import torch

from swin_backbone import ArgumentError
from swin_backbone.argument_values import (
    choice,
    flag,
    integer,
    integers,
    number,
    same,
    shown,
    window_side,
)


@pytest.mark.parametrize('value', [3, np.int8(3), np.array(3), torch.tensor(3), torch.tensor([3])])
def test_whole_numbers_become_plain(value):
    found = integer('depth', value, 1)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize('value', [3.0, '3', None, 1j, [3], np.array([3, 4]), torch.ones(())])
def test_no_whole_numbers(value):
    with pytest.raises(ArgumentError, match=r'depth=.* must be a positive int'):
        integer('depth', value, 1)


def test_bounds_are_said():
    with pytest.raises(ArgumentError, match=r'^depth=0 must be a positive int$'):
        integer('depth', 0, 1)
    with pytest.raises(
        ArgumentError, match=r'^depth=9 must be a positive int, and no more than 8$'
    ):
        integer('depth', 9, 1, 8)
    with pytest.raises(ArgumentError, match=r'^depths\[1\]=-1 must be an int from 0 on$'):
        integers('depths', [1, -1], 0)
    with pytest.raises(ArgumentError, match=r'^depths=3 must be a list or tuple'):
        integers('depths', 3, 0)


@pytest.mark.parametrize(
    'value', [0.5, np.float16(0.5), np.array(0.5), torch.tensor(0.5), decimal.Decimal('0.5')]
)
def test_numbers_become_plain(value):
    found = number('ratio', value, 0, 1, 'a ratio')
    assert (found, type(found)) == (0.5, float)


@pytest.mark.parametrize('value', ['0.5', b'1', None, float('nan'), 2, 10**400, 1j, torch.ones(2)])
def test_no_numbers(value):
    with pytest.raises(ArgumentError, match=r'ratio=.* must be a ratio'):
        number('ratio', value, 0, 1, 'a ratio')


@pytest.mark.parametrize('value', [7, (7, 7), [7, 7], (np.int64(7), torch.tensor(7))])
def test_square_windows(value):
    assert window_side('window', value) == 7


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ((7, 14), r'^window=\(7, 14\): windows must be square; give one int, or twice the same$'),
        ([7, 7, 7], r'^window=\[7, 7, 7\] must be a positive int$'),
        (('7', '7'), r"^window='7' must be a positive int$"),
        ((7,), r'^window=\(7,\) must be a positive int$'),
    ],
)
def test_no_square_windows(value, message):
    with pytest.raises(ArgumentError, match=message):
        window_side('window', value)


def test_flags_and_choices():
    assert flag('bias', np.True_) is True
    assert flag('bias', []) is False
    with pytest.raises(ArgumentError, match='bias=array'):
        flag('bias', np.ones(2))
    assert choice('part', np.True_, (False, True)) is True
    with pytest.raises(ArgumentError, match=r"part='b' must be one of \('a',\)"):
        choice('part', 'b', ('a',))


def test_arrays_are_the_same_as_nothing():
    assert same((1, 2), (1, 2))
    assert not same(np.ones(2), np.ones(2))
    assert not same(torch.ones(2), 1)
    assert not same(2**70, torch.tensor(1))


def test_long_values_are_cut():
    assert shown('a') == "'a'"
    assert len(shown([0] * 10**5)) == 201
    assert shown(10**5000) == 'a huge int'

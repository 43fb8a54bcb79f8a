"""What is not replaced says so, and only when it is called."""

from __future__ import annotations

import pytest

from swin_backbone import mmcv_ext as ours


def test_an_operator_that_is_not_there():
    """``mmcv.ops`` asks for all of its operators' names as it is imported."""
    assert hasattr(ours, 'border_align_forward')
    with pytest.raises(NotImplementedError) as raised:
        ours.border_align_forward(1, pool_size=2)
    message = str(raised.value)
    assert "mmcv's operator border_align_forward needs a compiled mmcv" in message
    assert 'swin_backbone does not replace this one' in message
    assert 'MMCV_WITH_OPS=1 pip install' in message


def test_names_of_python_are_not_operators():
    with pytest.raises(AttributeError, match='__wrapped__'):
        ours.__wrapped__  # noqa: B018


def test_all_that_is_named_is_there():
    assert all(callable(getattr(ours, name)) for name in ours.__all__)
    assert all(name in vars(ours) for name in ours.__all__)

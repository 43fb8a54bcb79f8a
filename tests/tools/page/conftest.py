"""A real server of a detector, shared by the tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import DETECTOR, Served, picture, serving, written


@pytest.fixture(scope='session')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('page')


@pytest.fixture(scope='session')
def image(folder) -> Path:
    return picture(folder)


@pytest.fixture(scope='session')
def detector(folder) -> Iterator[Served]:
    """A server that accepts files of up to 1 MiB."""
    weights = written(DETECTOR, folder)
    with serving('--config', DETECTOR, '--weights', weights, '--max-upload', 1) as served:
        yield served

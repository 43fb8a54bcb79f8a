"""Shared by every test: quiet threads, reproducible draws, a small model."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator

import pytest
import torch
from fresh import Fresh
from hypothesis import settings
from mmengine.config import config as mmengine_config
from small import SMALL, randomized

from swin_backbone import SwinTransformer

# Two xdist workers on two cores: more threads than that only get in each other's way.
torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)

# mmengine reads a framework's whole index anew for each of its configs that is inherited.
mmengine_config._get_external_cfg_path = functools.cache(mmengine_config._get_external_cfg_path)

# Folders whose tests or groups take longest: what begins last must be short.
LONGEST_FIRST = ['integration', 'ops', 'demo', 'export', 'benchmarks', 'configs', 'engine', 'tools']

UNTIL = pytest.StashKey[float | None]()

settings.register_profile('suite', deadline=None, derandomize=True, print_blob=True)
settings.load_profile('suite')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--minutes', type=float, help='skip the tests that have not begun after so many minutes'
    )


def pytest_configure(config: pytest.Config) -> None:
    minutes = config.getoption('--minutes')
    config.stash[UNTIL] = None if minutes is None else time.monotonic() + 60 * minutes


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a file's fixtures run in one worker, which sets them up once."""
    rank = {folder: i for i, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))
    for item in items:
        if item.get_closest_marker('xdist_group'):
            continue
        used = item._fixtureinfo.name2fixturedefs.values()
        if any(fixture.scope == 'module' for fixtures in used for fixture in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = item.config.stash[UNTIL]
    if until is not None and time.monotonic() > until:
        pytest.skip('the minutes allowed are over')


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def fresh() -> Iterator[Fresh]:
    """Python processes that start quickly."""
    with Fresh() as fresh:
        yield fresh


@pytest.fixture
def small() -> dict:
    """Arguments of a small backbone."""
    return dict(SMALL)


@pytest.fixture
def small_model(small: dict) -> SwinTransformer:
    """A small backbone with every weight drawn at random, in evaluation mode."""
    return randomized(SwinTransformer(**small)).eval()

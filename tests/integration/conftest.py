"""Real images, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import COCO128
from fresh import Fresh


@pytest.fixture(scope='session')
def coco128() -> Path:
    """The folder with 128 real images of COCO."""
    if not COCO128.is_dir():
        pytest.skip(f'no real images: {COCO128} is absent (SWIN_COCO128 may name another place)')
    return COCO128


@pytest.fixture(scope='module', params=['program', pytest.param('mim', marks=pytest.mark.slow)])
def started(request, fresh) -> Fresh | None:
    """How commands are run: as the program that mim starts, and by mim, which takes longer."""
    return fresh if request.param == 'program' else None


@pytest.fixture(scope='session')
def ade20k(coco128, tmp_path_factory) -> Path:
    """Eight of the images and their semantic masks as ADE20K lies: six to train on, two to test."""
    root = tmp_path_factory.mktemp('ade20k')
    names = (coco128 / 'annotations/semantic.txt').read_text().split()[:8]
    for split, chosen in (('training', names[:6]), ('validation', names[6:])):
        for kind, source, suffix in (
            ('images', 'images', 'jpg'),
            ('annotations', 'annotations/semantic', 'png'),
        ):
            (root / kind / split).mkdir(parents=True)
            for name in chosen:
                file = f'{name}.{suffix}'
                (root / kind / split / file).symlink_to(coco128 / source / file)
    return root

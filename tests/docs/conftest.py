"""Folders of stand-ins, made once for all tests of the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import linked, make


@pytest.fixture(scope='session')
def stand_ins(tmp_path_factory) -> Path:
    """A folder with little files by the names that the pages give to their readers' own."""
    return make(tmp_path_factory.mktemp('docs') / 'stand-ins')


@pytest.fixture
def folder(stand_ins, tmp_path, monkeypatch) -> Path:
    """A folder with links to the stand-ins, which is the working directory."""
    folder = linked(stand_ins, tmp_path / 'folder')
    monkeypatch.chdir(folder)
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(folder / 'downloads'))
    monkeypatch.setenv('COLUMNS', '200')
    return folder

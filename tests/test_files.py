"""Files and folders appear complete, and a failure leaves what was there."""

from __future__ import annotations

import os

import pytest

from swin_backbone.files import move_into_place, remove, replacing, write


@pytest.mark.parametrize('content', ['größer\n', b'\x00\xff'], ids=['text', 'bytes'])
def test_content(tmp_path, content):
    write(tmp_path / 'a', 'before')
    write(str(tmp_path / 'a'), content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / 'a').read_bytes() == expected
    assert os.listdir(tmp_path) == ['a']


def test_the_temporary_file_has_the_same_name_on_the_same_disk(tmp_path):
    """The suffix decides about the format, and torch stores the name in the file."""
    with replacing(tmp_path / 'a.pt2') as part:
        part.write_text('new')
        assert part.name == 'a.pt2' and part.parent.parent == tmp_path
        assert part.parent.name.startswith('.') and not (tmp_path / 'a.pt2').exists()
    assert (tmp_path / 'a.pt2').read_text() == 'new'


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError(28, 'No space left on device')])
def test_a_failure_leaves_the_file(tmp_path, error):
    write(tmp_path / 'a', 'old')
    with pytest.raises((KeyboardInterrupt, OSError)), replacing(tmp_path / 'a') as part:
        part.write_text('half')
        raise error
    assert (tmp_path / 'a').read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / 'a', '')
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced(tmp_path):
    write(tmp_path / 'a', 'old')
    (tmp_path / 'link').symlink_to('a')
    write(tmp_path / 'link', 'new')
    assert (tmp_path / 'a').read_text() == 'old' and not (tmp_path / 'link').is_symlink()


def test_where_no_file_can_be(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no folder .*absent to write a to'):
        write(tmp_path / 'absent/a', '')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(IsADirectoryError, match='folder is a folder'):
        write(tmp_path / 'folder', '')
    assert os.listdir(tmp_path) == ['folder']


def folder(path, text):
    path.mkdir(parents=True)
    (path / 'file').write_text(text)
    return path


@pytest.mark.parametrize('killed', [False, True])
def test_a_folder_replaces_a_folder(tmp_path, monkeypatch, killed):
    old, new = folder(tmp_path / 'a', 'old'), folder(tmp_path / 'b', 'new')
    if killed:  # after the old folder made room
        monkeypatch.setattr(os, 'replace', lambda *paths: exec('raise KeyboardInterrupt'))
        with pytest.raises(KeyboardInterrupt):
            move_into_place(new, old)
        monkeypatch.undo()
        assert (new / 'file').read_text() == 'new'
    move_into_place(new, old)
    assert (old / 'file').read_text() == 'new' and os.listdir(tmp_path) == ['a']


def test_a_file_replaces_a_folder_and_a_folder_a_file(tmp_path):
    move_into_place(folder(tmp_path / 'a', 'new'), folder(tmp_path / 'b', 'old'))
    write(tmp_path / 'c', 'file')
    move_into_place(tmp_path / 'c', tmp_path / 'b')
    assert (tmp_path / 'b').read_text() == 'file'


def test_remove(tmp_path):
    for path in (folder(tmp_path / 'a', ''), tmp_path / 'absent'):
        remove(path)
    assert os.listdir(tmp_path) == []

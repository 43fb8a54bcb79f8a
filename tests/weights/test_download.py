"""Downloads are complete and checked or leave nothing, whatever the server, network or disk do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from serving import Server

from swin_backbone import CheckpointError
from swin_backbone.weights import download, read_checkpoint
from swin_backbone.weights.catalog import find
from swin_backbone.weights.download import fetch, folder, record_path, target


def checkpoint(value: float = 1.0, size: int = 1000) -> bytes:
    buffer = io.BytesIO()
    torch.save({'a': torch.full((size,), value)}, buffer)
    return buffer.getvalue()


WHOLE = checkpoint()
DIGEST = hashlib.sha256(WHOLE).hexdigest()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of downloads. Failed downloads are not repeated by default."""
    for name in ('SWIN_OFFLINE', 'SWIN_MIRROR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'cache'))
    monkeypatch.setattr(download, 'RETRIES', 0)
    return tmp_path / 'cache'


def left(cache: Path) -> list[str]:
    """The files in the folder without lock files."""
    return sorted(p.name for p in cache.rglob('*') if p.is_file() and p.suffix != '.lock')


def assert_refused(url: str, cache: Path, message: str) -> None:
    """Asserts that a download fails with the reason and the file's place, and leaves nothing."""
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(url)
    assert str(target(url).path) in str(caught.value)
    assert left(cache) == []


def test_a_file_arrives_once_and_its_hash_is_recorded(server, cache):
    server.files['/a.pth'] = WHOLE
    url = f'{server.url}/a.pth'
    for _ in range(2):
        assert read_checkpoint(url)['a'].sum() == 1000
    assert server.hits['/a.pth'] == 1
    path = target(url).path
    assert path.read_bytes() == WHOLE
    assert record_path(path).read_text() == f'{DIGEST}  a.pth\n'


def test_a_terminal_sees_progress(server, cache, monkeypatch, capsys):
    server.files |= {'/a.pth': WHOLE, '/b.pth': WHOLE}
    fetch(f'{server.url}/a.pth')
    assert '100%' not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    fetch(f'{server.url}/b.pth')
    assert '100%' in capsys.readouterr().err


def test_same_name_elsewhere_is_another_file(server, cache):
    server.files |= {'/one/a.pth': WHOLE, '/two/a.pth': checkpoint(2.0)}
    assert read_checkpoint(f'{server.url}/one/a.pth')['a'][0] == 1
    assert read_checkpoint(f'{server.url}/two/a.pth')['a'][0] == 2


def test_cut_connection(server, cache):
    server.files['/a.pth'] = WHOLE
    server.cuts['/a.pth'] = 1
    assert_refused(f'{server.url}/a.pth', cache, 'cannot be downloaded')
    assert fetch(f'{server.url}/a.pth').read_bytes() == WHOLE


def test_an_interrupted_download_is_repeated(server, cache, monkeypatch):
    monkeypatch.setattr(download, 'RETRIES', 1)
    server.files['/a.pth'] = WHOLE
    server.cuts['/a.pth'] = 1
    assert fetch(f'{server.url}/a.pth').read_bytes() == WHOLE
    assert server.hits['/a.pth'] == 2


def test_cut_connection_without_a_content_length(server, cache):
    server.files['/unmeasured/a.pth'] = WHOLE
    server.cuts['/unmeasured/a.pth'] = 1
    assert_refused(f'{server.url}/unmeasured/a.pth', cache, 'cut short')


@pytest.mark.parametrize('digits', [8, 64])
def test_hash_in_the_name(server, cache, digits):
    right, wrong = f'/a-{DIGEST[:digits]}.pth', f'/a-{"0" * digits}.pth'
    server.files |= {right: WHOLE, wrong: WHOLE}
    assert fetch(server.url + right).read_bytes() == WHOLE
    with pytest.raises(CheckpointError, match="the published file's with 0000"):
        fetch(server.url + wrong)
    assert not target(server.url + wrong).path.exists()


def test_hash_of_a_catalog_entry(server, cache, monkeypatch):
    monkeypatch.setenv('SWIN_MIRROR', server.url)
    entry = find('swin-tiny_16xb64_in1k')
    server.files[f'/{entry.url.removeprefix("https://")}'] = WHOLE
    with pytest.raises(CheckpointError, match="the published file's with 66df6be6"):
        fetch('swin-tiny_16xb64_in1k')
    assert left(cache) == []


def test_an_unverified_file_is_compared_with_its_first_download(server, cache, monkeypatch):
    monkeypatch.setenv('SWIN_MIRROR', f'{server.url}/')
    entry = find('swin_tiny_in1k')
    server.files[f'/{entry.url.removeprefix("https://")}'] = WHOLE
    path = fetch('swin_tiny_in1k')
    assert path == cache / 'swin_tiny_patch4_window7_224.pth'
    path.write_bytes(checkpoint(3.0))
    with pytest.raises(CheckpointError, match='has changed since it was first used'):
        read_checkpoint('swin_tiny_in1k')
    path.unlink()
    record_path(path).unlink()
    assert read_checkpoint('swin_tiny_in1k')['a'][0] == 1


def test_not_found(server, cache):
    assert_refused(f'{server.url}/none.pth', cache, '404')


def test_no_server(server, cache):
    server.shutdown()
    server.server_close()
    assert_refused(f'{server.url}/a.pth', cache, 'cannot be downloaded.*[Cc]onnection')


def test_redirect(server, cache):
    server.files['/a.pth'] = WHOLE
    assert fetch(f'{server.url}/moved/a.pth').read_bytes() == WHOLE


def test_slow_server(server, cache, monkeypatch):
    server.files['/a.pth'] = WHOLE
    server.delay = 1.0
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    assert_refused(f'{server.url}/a.pth', cache, '[Tt]imed? ?out')
    monkeypatch.setattr(download, 'TIMEOUT', 10.0)
    assert fetch(f'{server.url}/a.pth').read_bytes() == WHOLE


def test_an_error_page_is_no_checkpoint(server, cache):
    server.files['/a.pth'] = b'<!DOCTYPE html><title>Please log in</title>'
    assert_refused(f'{server.url}/a.pth', cache, 'web page')


@contextlib.contextmanager
def small_disk(folder: Path):
    """A file system of 64 KiB, or a limit of the file size if mounting is not allowed."""
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield 'No space left on device'
        finally:
            subprocess.run(['umount', str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        yield 'File too large'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(server, cache, tmp_path):
    server.files['/a.pth'] = checkpoint(size=1_000_000)
    with small_disk(cache) as message:
        assert_refused(f'{server.url}/a.pth', cache, message)
    assert read_checkpoint(f'{server.url}/a.pth')['a'].sum() == 1_000_000


def test_offline(server, cache, monkeypatch):
    monkeypatch.setenv('SWIN_OFFLINE', '1')
    path = cache / 'swin_tiny_patch4_window7_224.pth'
    with pytest.raises(CheckpointError, match=r'SWIN_OFFLINE.*fetch https://github\.com') as caught:
        read_checkpoint('swin_tiny_in1k')
    assert f'place it at {path}' in str(caught.value)
    cache.mkdir()
    path.write_bytes(WHOLE)
    assert read_checkpoint('swin_tiny_in1k')['a'].sum() == 1000
    assert server.hits.total() == 0


def test_a_folder_that_cannot_be_written(cache, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError(13, 'Permission denied')

    cache.mkdir()
    (cache / 'swin_tiny_patch4_window7_224.pth').write_bytes(WHOLE)
    monkeypatch.setattr(download, 'write', denied)
    assert read_checkpoint('swin_tiny_in1k')['a'].sum() == 1000


def test_files_that_require_a_browser(cache):
    with pytest.raises(CheckpointError, match=r'page only: fetch https://drive\.google\.com'):
        fetch('simmim_swin_base_100ep_192')


def test_without_pooch(server, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pooch', None)
    with pytest.raises(CheckpointError, match=r'pip install .*pooch'):
        fetch(f'{server.url}/a.pth')


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('SWIN_CHECKPOINTS')
    assert folder() == Path(__file__).parents[2] / 'checkpoints'
    package = tmp_path / 'swin_backbone'
    monkeypatch.setattr(download, '__file__', str(package / 'weights' / 'download.py'))
    monkeypatch.setattr(download, 'catalog_path', lambda: package / 'checkpoints' / 'catalog.yml')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert folder() == tmp_path / 'xdg' / 'swin_backbone'


def test_names_cannot_leave_the_folder(cache):
    for name in ('http://host/../../a.pth', 'http://host/a/..//b.pth?x=../c'):
        assert cache in target(name).path.parents and '..' not in target(name).path.parts


def run_two(*jobs: list[str]) -> list[str]:
    """The last lines of the output of two processes of fetching.py."""
    script = str(Path(__file__).parent / 'fetching.py')
    processes = [
        subprocess.Popen(
            [sys.executable, '-W', 'ignore', script, *job], stdout=subprocess.PIPE, text=True
        )
        for job in jobs
    ]
    return [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]


def test_two_processes_at_once(server, cache):
    server.files['/a.pth'] = WHOLE
    server.delay = 3.0
    url = f'{server.url}/a.pth'
    assert run_two([url], [url]) == ['loaded 1000.0'] * 2
    assert server.hits['/a.pth'] == 1
    assert left(cache) == ['a.pth', 'a.pth.sha256']


@pytest.mark.parametrize('there', [True, False])
def test_two_ranks(server, cache, there):
    """Rank 0 downloads. If it fails, the other rank fails as well and does not hang."""
    if there:
        server.files['/a.pth'] = WHOLE
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    url = f'{server.url}/a.pth'
    outcomes = run_two([url, '0', port], [url, '1', port])
    assert server.hits['/a.pth'] == 1
    if there:
        assert outcomes == ['loaded 1000.0'] * 2
    else:
        assert outcomes[0] == outcomes[1] and '404' in outcomes[0]


def test_a_killed_download_leaves_nothing_that_loads(server, cache):
    server.files['/a.pth'] = WHOLE
    server.delay = 60.0
    url = f'{server.url}/a.pth'
    script = str(Path(__file__).parent / 'fetching.py')
    process = subprocess.Popen([sys.executable, '-W', 'ignore', script, url])
    try:
        while not server.hits['/a.pth']:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    server.delay = 0.0
    assert not target(url).path.exists()
    assert read_checkpoint(url)['a'].sum() == 1000

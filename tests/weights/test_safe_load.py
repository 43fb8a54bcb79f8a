"""mmengine's checkpoints open; code in a checkpoint never runs."""

from __future__ import annotations

import functools
import http.server
import os
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, checkpoint

from swin_backbone import CheckpointError
from swin_backbone.weights import read_checkpoint


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Sneaky(Evil):
    """Tries to access other attributes by the allowed attribute look-up."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_message_hubs_and_numpy_survive(tmp_path):
    hub = MessageHub.get_instance('test_safe_load')
    for step in range(5):
        hub.update_scalar('train/loss', 1.0 / (step + 1))
    content = {
        'message_hub': hub.state_dict(),
        'meta': {
            'palette': np.arange(6, dtype=np.uint8).reshape(2, 3),
            'score': np.float32(0.5),
            'flags': np.array([True, False]),
            'names': np.array(['a', 'b']),
        },
    }
    torch.save(content, tmp_path / 'epoch_1.pth')
    loaded = read_checkpoint(tmp_path / 'epoch_1.pth')
    history = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.current() == pytest.approx(0.2)
    assert history.mean() == pytest.approx(sum(1 / (n + 1) for n in range(5)) / 5)
    assert loaded['meta']['palette'].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded['meta']['score'] == np.float32(0.5)


@pytest.mark.parametrize('evil', [Evil, Sneaky])
def test_code_is_refused_and_named(tmp_path, evil):
    made = tmp_path / 'made'
    torch.save({'state_dict': {'a': evil(made)}}, tmp_path / 'evil.pth')
    name = {Evil: 'mkdir', Sneaky: '__init__'}[evil]
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / 'evil.pth')
    # The frameworks' own way to a file is as safe.
    with pytest.raises(CheckpointError, match=name):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))
    assert not made.exists()


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'PK\x03\x04cut', b'\x80\x02}q'])
def test_damaged_files(tmp_path, content):
    (tmp_path / 'file.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=r'file\.pth'):
        read_checkpoint(tmp_path / 'file.pth')


@pytest.mark.parametrize('keep', [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, keep):
    torch.save({'state_dict': {'a': torch.randn(100, 100)}}, tmp_path / 'whole.pth')
    whole = (tmp_path / 'whole.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match='cut short'):
        read_checkpoint(tmp_path / 'cut.pth')


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read_checkpoint(tmp_path / 'nowhere.pth')


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Serves ``tmp_path / served`` on the loopback interface; downloads go to ``tmp_path``."""
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'checkpoints'))
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_downloads_are_read_safely(tmp_path, url):
    torch.save({'state_dict': {'a': torch.ones(2)}}, tmp_path / 'served' / 'good.pth')
    assert read_checkpoint(f'{url}/good.pth')['state_dict']['a'].tolist() == [1, 1]
    torch.save({'a': Evil(tmp_path / 'made')}, tmp_path / 'served' / 'evil.pth')
    with pytest.raises(CheckpointError, match='mkdir'):
        read_checkpoint(f'{url}/evil.pth')
    assert not (tmp_path / 'made').exists()


def test_downloads_are_checked_against_the_hash_in_their_name(tmp_path, url):
    torch.save({'a': torch.ones(2)}, tmp_path / 'served' / 'model-0badc0de.pth')
    with pytest.raises(CheckpointError, match='hash'):
        read_checkpoint(f'{url}/model-0badc0de.pth')


@pytest.mark.parametrize('scheme', ['torchvision', 'open-mmlab', 'mmcls'])
def test_mmengines_model_zoos_are_read_safely(tmp_path, url, monkeypatch, scheme):
    torch.save({'state_dict': {'a': Evil(tmp_path / 'made')}}, tmp_path / 'served' / 'evil.pth')
    for table in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(checkpoint, table, lambda: {'evil': f'{url}/evil.pth'})
    with pytest.raises(CheckpointError, match='mkdir'):
        CheckpointLoader.load_checkpoint(f'{scheme}://evil')
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    'first',
    [
        'from swin_backbone.weights import read_checkpoint',
        'import swin_backbone.weights.safe_load',
        'import mmengine.runner, swin_backbone',
        'import swin_backbone, mmengine.runner',
    ],
)
def test_mmengine_has_our_loaders_whatever_is_imported_first(fresh, first):
    code = (
        f'{first}\n'
        'from mmengine.runner import CheckpointLoader\n'
        'print(CheckpointLoader._schemes[""].__module__)\n'
    )
    done = fresh.run('-c', code)
    assert done.stdout.strip() == 'swin_backbone.patches', done.stderr


def test_numpy_1_26_has_its_new_modules_without_attributes(monkeypatch):
    from swin_backbone.weights.safe_globals import _under_both_names

    expected = np.ones(1).__reduce__()[0]
    monkeypatch.delattr(np._core, 'multiarray')
    assert _under_both_names('multiarray', '_reconstruct') == [
        (expected, 'numpy.core.multiarray._reconstruct'),
        (expected, 'numpy._core.multiarray._reconstruct'),
    ]

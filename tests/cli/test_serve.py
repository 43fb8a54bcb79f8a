"""``swin-backbone serve``: its address, output and errors."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

import swin_backbone.tools
from swin_backbone.cli import serve as command
from swin_backbone.cli.commands import commands
from swin_backbone.tools import page, predictor

MODEL = ('--config', 'demo_mask_rcnn_shapes', '--weights', 'missing.pth')


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ['serve', *MODEL, *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def served(monkeypatch) -> list:
    """The applications and addresses that would be served; no model is built."""
    model = SimpleNamespace(task='detection', classes=['a'], palette=np.zeros((1, 3), np.uint8))
    found: list = []
    monkeypatch.setattr(predictor, 'Predictor', lambda *_: model)
    monkeypatch.setattr(
        page, 'serve', lambda app, socket: found.append((app, socket.getsockname()))
    )
    return found


def test_loopback_alone_by_default(served):
    result = run('--port', 0, '--max-upload', 0.5)
    ((app, (host, port)),) = served
    assert host == '127.0.0.1'
    assert (
        f'demo_mask_rcnn_shapes (detection) is served at http://127.0.0.1:{port}/' in result.stdout
    )
    assert result.stderr == ''
    known = TestClient(app, base_url=f'http://127.0.0.1:{port}').get('/model').json()
    assert known['title'] == 'demo_mask_rcnn_shapes' and known['max_upload'] == 2**19


def test_other_addresses_are_warned_of(served):
    result = run('--port', 0, '--host', '0.0.0.0')
    assert 'Warning: other machines that reach 0.0.0.0 can use it' in result.stderr
    assert 'http://localhost:' in result.stdout
    app = served[0][0]
    assert TestClient(app, base_url='http://192.168.0.7').get('/model').status_code == 200
    assert TestClient(app, base_url='http://evil.example').get('/model').status_code == 400


def test_opens_a_browser_when_told(served, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(command.webbrowser, 'open', opened.append)
    run('--port', 0)
    assert not opened
    run('--port', 0, '--open')
    assert opened == [f'http://127.0.0.1:{served[1][1][1]}/']


def test_ctrl_c_is_no_error(served, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, 'serve', interrupted)
    assert run('--port', 0).stdout.endswith('stopped\n')


def test_a_port_that_is_taken():
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        result = run('--port', port, code=3)
    assert (
        f'Error: cannot listen on 127.0.0.1, port {port}: Address already in use' in result.stderr
    )
    assert '--port 0 selects a free one' in result.stderr and result.stderr.count('\n') == 1


def test_devices_that_are_not_there():
    assert 'Error: --device moon cannot be used' in run('--device', 'moon', code=3).stderr
    assert 'Error: --device meta cannot be used' in run('--device', 'meta', code=3).stderr


def test_weights_that_are_not_there():
    assert 'missing.pth' in run('--port', 0, code=3).stderr


@pytest.mark.parametrize('arguments', [('--port', 65536), ('--max-upload', 0)], ids=str)
def test_wrong_command_lines(arguments):
    run(*arguments, code=2)


def test_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith('swin_backbone.tools.page')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(swin_backbone.tools, 'page')
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert 'the page needs uvicorn (' in (said := run(code=3).stderr)
    assert "pip install 'swin_backbone[page]'" in said

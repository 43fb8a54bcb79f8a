"""The command as a process, with clients that are not browsers."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import httpx2
import pytest

pytestmark = pytest.mark.xdist_group('browser')  # which has the server already


def test_a_script(detector, image):
    found = httpx2.post(f'{detector.url}predict', content=image.read_bytes(), timeout=60)
    assert found.status_code == 200 and len(found.json()['boxes']) > 3


def said(url: str, request: bytes, leave: bool = False) -> bytes:
    """The server's response to bytes; none if the client disconnects at once."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as client:
        client.sendall(request)
        if leave:
            return b''
        client.shutdown(socket.SHUT_WR)
        return b''.join(iter(lambda: client.recv(65536), b''))


def post(length: int, content: bytes) -> bytes:
    head = f'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n'
    return head.encode() + content


def test_clients_that_leave_are_harmless(detector, image):
    content = image.read_bytes()
    for _ in range(12):  # more than may wait
        said(detector.url, post(len(content), content[:1000]), leave=True)
        said(detector.url, post(len(content), content), leave=True)
    with httpx2.Client(timeout=60) as client:
        for _ in range(50):
            found = client.post(f'{detector.url}predict', content=content)
            if found.status_code != 503:
                break
        assert found.status_code == 200
    assert detector.unread() == []  # no traceback


def test_an_upload_without_end(detector):
    place = urlsplit(detector.url)
    head = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n'
    with socket.create_connection((place.hostname, place.port), timeout=30) as client:
        client.sendall(head)
        for _ in range(20):  # MiB, of which one is allowed
            client.sendall(b'100000\r\n' + bytes(2**20) + b'\r\n')
        answer = client.recv(65536)
    assert answer.startswith(b'HTTP/1.1 413')
    assert b'1 MiB are allowed' in answer


@pytest.mark.parametrize(
    ('request_line', 'status'),
    [
        (b'GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n', b'400'),
        (b'GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n', b'404'),
        (b'GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n', b'400'),
        (b'nonsense\r\n\r\n', b'400'),
    ],
)
def test_requests_of_other_kinds(detector, request_line, status):
    assert said(detector.url, request_line).split()[1] == status


def test_no_version_is_told(detector):
    response = httpx2.get(detector.url)
    assert 'server' not in response.headers
    assert json.loads(httpx2.get(f'{detector.url}model').text)['device'] == 'cpu'

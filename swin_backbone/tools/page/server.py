"""Sockets and the server."""

from __future__ import annotations

import ipaddress
import socket

import uvicorn
from starlette.applications import Starlette

from .guard import WILDCARDS

_PATIENCE = 5  # seconds that running requests have when the server is told to end


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, on a free port where ``port`` is 0.

    Raises:
        OSError: It cannot be: the port is taken, say, or the machine has no such address.
    """
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        said = str(error.strerror).partition(' (')[0]  # Python adds the address, in brackets
        raise OSError(
            f'cannot listen on {host}, port {port}: {said}; '
            'give another --host, or another --port: 0 takes one that is free'
        ) from error


def url_of(listening: socket.socket, host: str) -> str:
    """Where a browser on this machine finds it."""
    host = 'localhost' if host in WILDCARDS else host
    name = f'[{host}]' if ':' in host else host
    return f'http://{name}:{listening.getsockname()[1]}/'


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serves until the process is interrupted."""
    config = uvicorn.Config(
        app,
        http='h11',
        ws='none',
        lifespan='off',
        proxy_headers=False,
        server_header=False,
        log_level='warning',
        timeout_graceful_shutdown=_PATIENCE,
    )
    uvicorn.Server(config).run(sockets=[listening])

"""The server of the page."""

from __future__ import annotations

import ipaddress
import socket

import uvicorn
from starlette.applications import Starlette

from .guard import WILDCARDS

_PATIENCE = 5  # seconds for running requests to finish when the server stops


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 selects a free port.

    Raises:
        OSError: The port is in use, or the machine does not have the address.
    """
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        said = str(error.strerror).partition(' (')[0]  # without the address, which Python adds
        raise OSError(
            f'cannot listen on {host}, port {port}: {said}; '
            'choose another --host or --port; --port 0 selects a free one'
        ) from error


def url_of(listening: socket.socket, host: str) -> str:
    """The server's URL for a browser on this machine."""
    host = 'localhost' if host in WILDCARDS else host
    name = f'[{host}]' if ':' in host else host
    return f'http://{name}:{listening.getsockname()[1]}/'


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can connect to the socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def serve(app: Starlette, listening: socket.socket) -> None:
    """Runs the server until the process is interrupted."""
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

"""Protects a local server from requests by other web pages."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ('localhost', '127.0.0.1', '::1')
WILDCARDS = ('', '0.0.0.0', '::')  # every address of the machine
HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-store',
}


class Guard:
    """ASGI middleware that refuses requests by other sites, and keeps the page from loading others.

    Requests must be addressed to a known host name, so that a name that an attacker's DNS server
    resolves to this machine is refused (DNS rebinding). Requests other than GET and HEAD must come
    from the page's own origin.

    Args:
        app: The protected application.
        host: The address or name of the server.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self._everywhere = host in WILDCARDS
        self._names = {*LOOPBACK, host.lower()}
        if self._everywhere:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not self._served(headers.get('host', '')):
            sentence = 'This server is not reached by that name.'
            await JSONResponse({'error': sentence}, 400)(scope, receive, with_headers)
        elif scope['method'] not in ('GET', 'HEAD') and _from_elsewhere(headers):
            sentence = 'Requests of other sites are refused.'
            await JSONResponse({'error': sentence}, 403)(scope, receive, with_headers)
        else:
            await self.app(scope, receive, with_headers)

    def _served(self, host: str) -> bool:
        try:
            name = urlsplit(f'//{host}').hostname or ''
        except ValueError:
            return False
        return name in self._names or (self._everywhere and _is_address(name))


def _from_elsewhere(headers: Headers) -> bool:
    if headers.get('sec-fetch-site', 'same-origin') not in ('same-origin', 'none'):
        return True
    origin = headers.get('origin')  # none from scripts; 'null' from sandboxed frames
    return origin is not None and origin.partition('://')[2].lower() != headers['host'].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""A server on the loopback interface that can simulate faults."""

from __future__ import annotations

import http.server
import threading
import time
from collections import Counter


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path.

    Attributes:
        files: Content by path.
        cuts: How often yet a file's connection is cut in its middle, by path.
        hits: Requests so far, by path.
        delay: Seconds between the two halves of every file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.delay = 0.0
        self.url = f'http://127.0.0.1:{self.server_port}'
        threading.Thread(
            target=self.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True
        ).start()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.hits[path] += 1
        if path.startswith('/moved/'):
            self.send_response(302)
            self.send_header('Location', path.removeprefix('/moved'))
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        content = server.files[path]
        self.send_response(200)
        if not path.startswith('/unmeasured/'):
            self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        if server.cuts[path] > 0:
            server.cuts[path] -= 1
            return
        time.sleep(server.delay)
        self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        """Quiet."""

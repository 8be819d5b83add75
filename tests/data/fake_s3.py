"""An S3 endpoint on this machine that serves a folder: GET and HEAD of objects, with ranges, and faults on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

BUCKET = "bucket"


class FakeS3(ThreadingHTTPServer):
    """requests: (method, key, range) of each. fail: how many of the next object requests answer 503."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.fail = root, 0
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeS3
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        bucket, _, key = unquote(urlparse(self.path).path).lstrip("/").partition("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((self.command, key, wanted))
        file = self.server.root / key
        if self.server.fail > 0:
            self.server.fail -= 1
            return self._send(503, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>", body)
        if bucket != BUCKET or not file.is_file():
            return self._send(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>", body)
        content, status, headers = file.read_bytes(), 200, {}
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            total = len(content)
            stop = min(int(last) + 1, total) if last else total
            content, status = content[int(first) : stop], 206
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{total}"
        self._send(status, content, body, headers)

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str] = {}) -> None:  # noqa: B006
        self.send_response(status)
        for name, value in {"ETag": '"0"', "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(root: Path) -> Iterator[FakeS3]:
    server = FakeS3(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

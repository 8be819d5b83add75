"""A server for trying the page on this computer."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kdse.errors import UserError


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # not the system's table, which may lack some
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder on this computer only; port 0 takes a free one.

    Raises:
        ValueError: if the port cannot be had.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--serve {port}: cannot be used ({reason}); give another port") from None

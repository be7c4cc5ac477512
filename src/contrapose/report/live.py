"""The page of runs that go on, served on loopback: a browser that has it open asks for news."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from contrapose.report.page import as_json, page
from contrapose.types import ContraposeError, told

WATCHED = ("metrics.jsonl", "eval.json")
"""What a run writes when a step or an evaluation is done."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class Live(ThreadingHTTPServer):
    """Serves ``/``, the page, and ``/data``, what it shows, to this machine alone. ``port`` 0 takes a free one.

    ``build`` makes the data of ``runs``; it is called again once a run has written more, and by one request at a time.
    A context; ``serve_forever`` serves until it is interrupted. Raises ContraposeError where the port is taken.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], build: Callable[[Sequence[Path]], dict[str, Any]], port: int = 0) -> None:
        self._runs, self._build = runs, build
        self._lock = Lock()
        self._made: tuple[str, dict[str, Any]] | None = None
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ContraposeError(
                f"--port: {port} cannot be had ({error.strerror}): leave it out for a free one"
            ) from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def data(self) -> Mapping[str, Any]:
        """What the page shows now; its ``stamp`` changes when a run has written more."""
        with self._lock:
            stamp = self.stamp()
            if self._made is None or self._made[0] != stamp:
                self._made = stamp, self._build(self._runs) | {"stamp": stamp}
            return self._made[1]

    def stamp(self) -> str:
        """Size and time of what is watched."""
        return ".".join(_stamp(run / name) for run in self._runs for name in WATCHED)


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:  # not yet there
        return "-"
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


class _Handler(BaseHTTPRequestHandler):
    server: Live
    timeout = 30.0  # seconds to say what is wanted

    def do_GET(self) -> None:
        # a page elsewhere may have its name lead here: only who asks for this machine by name is answered
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this page is for this machine alone\n")
        path, _, query = self.path.partition("?")
        if path not in ("/", "/data"):
            return self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is nothing here\n")
        if path == "/data" and query == f"since={self.server.stamp()}":
            return self._answer(HTTPStatus.NO_CONTENT)
        try:
            data = self.server.data()
            kind, text = ("text/html", page(data, live=True)) if path == "/" else ("application/json", as_json(data))
        except Exception as error:  # told in the page, which asks again
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{told(error)}\n")
        return self._answer(HTTPStatus.OK, kind, text)

    def _answer(self, status: HTTPStatus, kind: str = "", text: str = "") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # whoever asked has gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""

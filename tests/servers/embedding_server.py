"""An HTTP server in a thread that plays an embedding service. A plugin's tests define its answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

__all__ = ["EmbeddingServer", "Reply", "direction", "serving", "unset"]

PROXIES: Final = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@attrs.frozen
class Reply:
    """An answer of the server.

    Attributes:
        status: The HTTP status.
        body: The body: a value that is sent as JSON, or a text.
        headers: More headers.
        cut: Whether the connection is closed in the middle of the body.
        wait: Whether the answer waits until the test ends.
        drips: Whether the body is sent one byte at a time, ten bytes in a second.
    """

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = attrs.field(factory=dict)
    cut: bool = False
    wait: bool = False
    drips: bool = False


def direction(word: str, dimensions: int) -> NDArray[np.float64]:
    """Return the direction of a word: a random vector, the same for each call; float64 ``[dimensions]``."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimensions)


def unset(monkeypatch: pytest.MonkeyPatch, *variables: str) -> None:
    """Remove environment variables of the user, and those that name proxies."""
    for name in (*variables, *PROXIES):
        monkeypatch.delenv(name, raising=False)


@attrs.define
class EmbeddingServer:
    """The state of a server. A subclass answers as a service does.

    Attributes:
        url: The server's URL.
        replies: By path, the answers to send before the usual ones.
        requests: The path and the body of each request.
        headers: The headers of each request, with names in lower case.
        waiting: Set when a request waits for its answer.
        released: Set when the waiting requests are to end.
    """

    url: str = ""
    replies: dict[str, list[Reply]] = attrs.field(factory=dict)
    requests: list[tuple[str, Any]] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    waiting: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)

    def answer(self, path: str, body: Any, authorization: str | None) -> Reply:
        """Answer a request as the service does."""
        raise NotImplementedError

    def asked(self, path: str) -> list[Any]:
        """Return the bodies of the requests to a path."""
        return [body for each, body in self.requests if each == path]

    def respond(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        """Record a request and send the answer."""
        self.requests.append((request.path, body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        queue = self.replies.get(request.path)
        reply = queue.pop(0) if queue else self.answer(request.path, body, request.headers["Authorization"])
        if reply.wait:
            self.waiting.set()
            self.released.wait()
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        request.send_response(reply.status)
        request.send_header("Content-Type", "text/html" if isinstance(reply.body, str) else "application/json")
        for name, value in reply.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        for byte in content if reply.drips else b"":
            request.wfile.write(bytes([byte]))
            if self.released.wait(0.1):
                return
        request.wfile.write(content[: len(content) // 2] if reply.cut else content)
        request.close_connection = request.close_connection or reply.cut

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Serve while the context is open."""
        with serving(type("Handler", (_Handler,), {"embedding_server": self})) as url:
            self.url = url
            try:
                yield self
            finally:
                self.released.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    embedding_server: EmbeddingServer

    def do_GET(self) -> None:
        self.embedding_server.respond(self, None)

    def do_POST(self) -> None:
        self.embedding_server.respond(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that have closed their connections."""


@contextlib.contextmanager
def serving(handler: Any) -> Iterator[str]:
    """Run an HTTP server in a thread.

    Args:
        handler: Makes the handler of a request, as `http.server.HTTPServer` expects it.

    Yields:
        The server's URL.
    """
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

"""What the plugin's tests share: a server that speaks Ollama's published HTTP API, on a socket of its own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import attrs
import numpy as np
import pytest

DIGEST: Final = "0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f"


@attrs.frozen
class Reply:
    """An answer that is set down beforehand.

    Attributes:
        status: The HTTP status.
        body: The body: a value that is written as JSON, or a text.
        headers: Further headers.
        cut: Whether the connection is broken off in the midst of the body.
        wait: Whether the answer does not come before the server is closed.
        drips: Whether the body comes a byte at a time, ten of them in a second.
    """

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = attrs.field(factory=dict)
    cut: bool = False
    wait: bool = False
    drips: bool = False


@attrs.define
class Ollama:
    """The state of a server: its model, what it was asked, and what it is to answer.

    Attributes:
        host: Where it listens.
        model: The name of the model that it has; empty where it has none.
        context: How many tokens the model reads.
        parameters: The parameters of the Modelfile.
        dimensions: The length of its vectors.
        cuts: Whether it is so old that it cuts a long text and says nothing, whatever ``truncate`` says.
        refuses_always: Whether it refuses a long text, whatever ``truncate`` says.
        digest: The digest of the model.
        replies: By path, answers to give before the usual ones.
        pulled: The lines of an answer to a pull; the model is there after ``success``.
        requests: The path and the body of each request.
        headers: The headers of each request.
        waiting: Set when a request waits for its answer.
        released: Set when those that wait are let go.
    """

    host: str = ""
    model: str = "all-minilm:latest"
    context: int = 512
    parameters: str = "num_ctx                        256"
    dimensions: int = 384
    cuts: bool = False
    refuses_always: bool = False
    digest: str = DIGEST
    replies: dict[str, list[Reply]] = attrs.field(factory=dict)
    pulled: list[dict[str, Any]] = attrs.field(factory=list)
    requests: list[tuple[str, Any]] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    waiting: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)

    def asked(self, path: str) -> list[Any]:
        """Return the bodies of the requests to a path."""
        return [body for each, body in self.requests if each == path]

    def vector(self, text: str, dimensions: int | None) -> list[float]:
        """Return a text's vector: the direction of its words, and a little that is its own; of length 1."""
        vector = np.zeros(self.dimensions)
        for part, weight in ((text, 0.5), *((word, 1.0) for word in text.split())):
            seed = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "big")
            vector += weight * np.random.default_rng(seed).normal(size=self.dimensions)
        numbers: list[float] = (vector[:dimensions] / np.linalg.norm(vector[:dimensions])).tolist()
        return numbers

    def answer(self, path: str, body: Any) -> Reply:
        """Answer as Ollama does."""
        if path == "/api/tags":
            return Reply(body={"models": [{"name": self.model, "model": self.model, "digest": self.digest}]})
        if path == "/api/pull":
            if self.pulled and self.pulled[-1].get("status") == "success":
                self.model = body["model"] if ":" in body["model"] else f"{body['model']}:latest"
            return Reply(body="".join(json.dumps(line) + "\n" for line in self.pulled))
        if self.model not in {body["model"], f"{body['model']}:latest"}:
            return Reply(404, {"error": f"model '{body['model']}' not found"})
        if path == "/api/show":
            about = {"general.architecture": "bert", "bert.context_length": self.context}
            return Reply(body={"model_info": about, "parameters": self.parameters, "capabilities": ["embedding"]})
        return self.embed(body)

    def embed(self, body: Any) -> Reply:
        """Answer ``/api/embed``: a token is a word, or one of two round the text."""
        texts = body["input"]
        limit = min(body["options"]["num_ctx"], self.context)
        counts = [len(text.split()) + 2 for text in texts]
        if max(counts) > limit and (not (self.cuts or body["truncate"]) or self.refuses_always):
            return Reply(400, {"error": "the input length exceeds the context length"})
        vectors = [self.vector(text, body.get("dimensions")) for text in texts]
        read = sum(min(count, limit) for count in counts)
        return Reply(body={"model": body["model"], "embeddings": vectors, "prompt_eval_count": read})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ollama: Ollama

    def do_GET(self) -> None:
        self._respond(None)

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _respond(self, body: Any) -> None:
        self.ollama.requests.append((self.path, body))
        self.ollama.headers.append(dict(self.headers))
        queue = self.ollama.replies.get(self.path)
        reply = queue.pop(0) if queue else self.ollama.answer(self.path, body)
        if reply.wait:
            self.ollama.waiting.set()
            self.ollama.released.wait()
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for byte in content if reply.drips else b"":
            self.wfile.write(bytes([byte]))
            if self.ollama.released.wait(0.1):
                return
        self.wfile.write(content[: len(content) // 2] if reply.cut else content)
        self.close_connection = self.close_connection or reply.cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


@pytest.fixture
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test but the live ones sees the user's own server and key, or a proxy."""
    for name in ("OLLAMA_HOST", "OLLAMA_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """A server that has the model ``all-minilm``."""
    state = Ollama()
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"ollama": state})) as server:
        state.host = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def reply() -> Callable[..., Reply]:
    """Make an answer to set down beforehand."""
    return Reply

"""What the plugins' tests share: a server that speaks the published APIs of OpenAI and Cohere, on a socket of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray

KEY: Final = "sk-test-4f0c2e9a71d8"
OPENAI_MODELS: Final = {
    "text-embedding-3-small": (1536, 8192),
    "text-embedding-3-large": (3072, 8192),
    "tiny": (32, 16),
}
COHERE_MODELS: Final = {"embed-english-v3.0": (1024, 512), "embed-v4.0": (1536, 128_000), "tiny": (32, 16)}
"""The length of the vectors, and how many tokens are read. A token is a word."""
_VARIABLES: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CO_API_KEY", "CO_API_URL")
_PROXIES: Final = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


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


def direction(name: str, dimensions: int) -> NDArray[np.float64]:
    """Return a direction that belongs to a word."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimensions)


def vector(text: str, dimensions: int, kind: str = "") -> list[float]:
    """Return a text's vector: the direction of its words, a little that is its own, and something of its kind."""
    parts = [(text, 0.5), (kind, 0.5 if kind else 0.0), *((word, 1.0) for word in text.split())]
    total = sum((weight * direction(part, dimensions) for part, weight in parts), start=np.zeros(dimensions))
    numbers: list[float] = (total / np.linalg.norm(total)).astype(np.float32).tolist()
    return numbers


@attrs.define
class Cloud:
    """The state of a server: what it was asked, and what it is to answer.

    Attributes:
        url: Where it listens.
        key: The key that it wants; None for none.
        floats_only: Whether it ignores ``encoding_format``, as some servers do.
        listing: What it adds to its list of models.
        replies: By path, answers to give before the usual ones.
        requests: The path and the body of each request.
        headers: The headers of each request.
        waiting: Set when a request waits for its answer.
        released: Set when those that wait are let go.
    """

    url: str = ""
    key: str | None = KEY
    floats_only: bool = False
    listing: dict[str, Any] = attrs.field(factory=dict)
    tokenizer: str = ""
    replies: dict[str, list[Reply]] = attrs.field(factory=dict)
    requests: list[tuple[str, Any]] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    waiting: threading.Event = attrs.field(factory=threading.Event)
    released: threading.Event = attrs.field(factory=threading.Event)

    def asked(self, path: str) -> list[Any]:
        """Return the bodies of the requests to a path."""
        return [body for each, body in self.requests if each == path]

    def answer(self, path: str, body: Any, authorization: str | None) -> Reply:
        """Answer as the services do."""
        if path.startswith("/files/"):
            assert authorization is None, "the key goes to nobody else"
            return Reply(body=self.tokenizer)
        if self.key is not None and authorization != f"Bearer {self.key}":
            message = f"Incorrect API key provided: {authorization}."
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
            return Reply(401, {"error": error} if path != "/v2/embed" else {"message": message})
        if path == "/v1/models":
            models = [{"id": name, "object": "model", **self.listing} for name in OPENAI_MODELS]
            return Reply(body={"object": "list", "data": models})
        if path.startswith("/v1/models/"):
            name = path.rpartition("/")[2]
            about = {"name": name, "context_length": COHERE_MODELS[name][1], "endpoints": ["embed"]}
            return Reply(body={**about, "tokenizer_url": f"{self.url}/files/{name}.json"})
        return self.cohere(body) if path == "/v2/embed" else self.openai(body)

    def openai(self, body: Any) -> Reply:
        """Answer ``/v1/embeddings`` as OpenAI does."""
        model, texts = body["model"], body["input"]
        if model not in OPENAI_MODELS:
            return Reply(404, {"error": {"message": f"The model `{model}` does not exist", "code": "model_not_found"}})
        own, limit = OPENAI_MODELS[model]
        tokens = [len(text.split()) for text in texts]
        if max(tokens) > limit:
            message = f"This model's maximum context length is {limit} tokens, however you requested {max(tokens)}."
            return Reply(400, {"error": {"message": message, "type": "invalid_request_error", "code": None}})
        if len(texts) > 2048 or sum(tokens) > 300_000:
            return Reply(400, {"error": {"message": "the request is too big", "code": None}})
        vectors = [vector(text, body.get("dimensions", own)) for text in texts]
        if body["encoding_format"] == "base64" and not self.floats_only:
            shown: list[Any] = [base64.b64encode(np.array(each, "<f4").tobytes()).decode() for each in vectors]
        else:
            shown = list(vectors)
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(shown)]
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        return Reply(body={"object": "list", "data": data[::-1], "model": model, "usage": usage})

    def cohere(self, body: Any) -> Reply:
        """Answer ``/v2/embed`` as Cohere does."""
        model, texts = body["model"], body["texts"]
        if model not in COHERE_MODELS:
            return Reply(404, {"message": f"model '{model}' not found, make sure the correct model ID was used"})
        own, limit = COHERE_MODELS[model]
        tokens = [len(text.split()) for text in texts]
        if max(tokens) > limit and body["truncate"] == "NONE":
            message = f"too many tokens: total number of tokens in the prompt cannot exceed {limit}"
            return Reply(400, {"message": message})
        if len(texts) > 96:
            return Reply(400, {"message": "invalid request: total number of texts must be at most 96"})
        vectors = [vector(text, body.get("output_dimension", own), body["input_type"]) for text in texts]
        billed = {"billed_units": {"input_tokens": sum(tokens)}}
        shown = {"response_type": "embeddings_by_type", "embeddings": {"float": vectors}, "texts": texts}
        return Reply(body={"id": "1", **shown, "meta": billed})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def do_GET(self) -> None:
        self._respond(None)

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _respond(self, body: Any) -> None:
        self.cloud.requests.append((self.path, body))
        self.cloud.headers.append({name.lower(): value for name, value in self.headers.items()})
        queue = self.cloud.replies.get(self.path)
        reply = queue.pop(0) if queue else self.cloud.answer(self.path, body, self.headers["Authorization"])
        if reply.wait:
            self.cloud.waiting.set()
            self.cloud.released.wait()
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "text/html" if isinstance(reply.body, str) else "application/json")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for byte in content if reply.drips else b"":
            self.wfile.write(bytes([byte]))
            if self.cloud.released.wait(0.1):
                return
        self.wfile.write(content[: len(content) // 2] if reply.cut else content)
        self.close_connection = self.close_connection or reply.cut


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test but the live ones sees the user's keys and addresses, and none fetches an encoding from the network."""
    import tiktoken.registry

    for name in (*_VARIABLES, *_PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "encodings"))
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A server that wants the key `KEY`."""
    state = Cloud()
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"cloud": state})) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
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


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A ``tokenizer.json`` whose tokens are words, with one more at either end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(4)  # as published files often have it
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path

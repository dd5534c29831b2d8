"""Fixtures: a server with Ollama's published HTTP API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import numpy as np
import pytest

from tests.servers.embedding_server import EmbeddingServer, Reply, direction, unset

DIGEST: Final = "0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f"


@attrs.define
class Ollama(EmbeddingServer):
    """A server with one model.

    Attributes:
        model: The model's name; empty for no model.
        context: The model's context, in tokens.
        parameters: The parameters of the Modelfile.
        dimensions: The length of the vectors.
        truncates_silently: Whether it truncates a long text whatever ``truncate`` says, as old versions do.
        never_truncates: Whether it rejects a long text whatever ``truncate`` says.
        digest: The digest of the model.
        pulled: The lines of the answer to a pull; after ``success`` the server has the model.
    """

    model: str = "all-minilm:latest"
    context: int = 512
    parameters: str = "num_ctx                        256"
    dimensions: int = 384
    truncates_silently: bool = False
    never_truncates: bool = False
    digest: str = DIGEST
    pulled: list[dict[str, Any]] = attrs.field(factory=list)

    def vector(self, text: str, dimensions: int | None) -> list[float]:
        """Return a text's vector: the directions of its words and of the whole text; of length 1."""
        weighted = ((text, 0.5), *((word, 1.0) for word in text.split()))
        vector = sum((weight * direction(part, self.dimensions) for part, weight in weighted), np.zeros(1))[:dimensions]
        numbers: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return numbers

    def answer(self, path: str, body: Any, authorization: str | None) -> Reply:
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
        """Answer ``/api/embed``: a token is a word, or one of two special ones."""
        texts = body["input"]
        limit = min(body.get("options", {}).get("num_ctx", self.context), self.context)
        counts = [len(text.split()) + 2 for text in texts]
        if max(counts) > limit and (not (self.truncates_silently or body["truncate"]) or self.never_truncates):
            return Reply(400, {"error": "the input length exceeds the context length"})
        vectors = [self.vector(text, body.get("dimensions")) for text in texts]
        read = sum(min(count, limit) for count in counts)
        return Reply(body={"model": body["model"], "embeddings": vectors, "prompt_eval_count": read})


@pytest.fixture
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's server, key and proxies from all tests but the live ones."""
    unset(monkeypatch, "OLLAMA_HOST", "OLLAMA_API_KEY")


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """A server with the model ``all-minilm``."""
    with Ollama().running() as server:
        yield server


@pytest.fixture
def reply() -> Callable[..., Reply]:
    """Make an answer for `replies`."""
    return Reply

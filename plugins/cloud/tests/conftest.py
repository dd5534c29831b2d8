"""Fixtures: a server with the published APIs of OpenAI and Cohere, and a tokenizer."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import pytest

from tests.servers.embedding_server import EmbeddingServer, Reply, direction, unset

KEY: Final = "sk-test-4f0c2e9a71d8"
OPENAI_MODELS: Final = {
    "text-embedding-3-small": (1536, 8192),
    "text-embedding-3-large": (3072, 8192),
    "tiny": (32, 16),
}
COHERE_MODELS: Final = {"embed-english-v3.0": (1024, 512), "embed-v4.0": (1536, 128_000), "tiny": (32, 16)}
"""The length of the vectors, and the token limit. A token is a word."""
_VARIABLES: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CO_API_KEY", "CO_API_URL")


def vector(text: str, dimensions: int, kind: str = "") -> list[float]:
    """Return a text's vector: the directions of its words, of the whole text and of its input type."""
    parts = [(text, 0.5), (kind, 0.5 if kind else 0.0), *((word, 1.0) for word in text.split())]
    total = sum((weight * direction(part, dimensions) for part, weight in parts), start=np.zeros(dimensions))
    numbers: list[float] = (total / np.linalg.norm(total)).astype(np.float32).tolist()
    return numbers


@attrs.define
class Cloud(EmbeddingServer):
    """A server with both APIs.

    Attributes:
        key: The key that it requires; None for none.
        floats_only: Whether it ignores ``encoding_format``, as some servers do.
        listing: More fields of each listed model.
        tokenizer: The content of the file ``tokenizer.json``.
    """

    key: str | None = KEY
    floats_only: bool = False
    listing: dict[str, Any] = attrs.field(factory=dict)
    tokenizer: str = ""

    def answer(self, path: str, body: Any, authorization: str | None) -> Reply:
        """Answer as the services do."""
        if path.startswith("/files/"):
            assert authorization is None, "the key is sent to no other server"
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


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's keys, addresses and proxies from all tests but the live ones, and forbid downloads of encodings."""
    import tiktoken.registry

    unset(monkeypatch, *_VARIABLES)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "encodings"))
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A server that requires the key `KEY`."""
    with Cloud().running() as server:
        yield server


@pytest.fixture
def reply() -> Callable[..., Reply]:
    """Make an answer for `replies`."""
    return Reply


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A ``tokenizer.json`` whose tokens are words, with a special token at the start and the end."""
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

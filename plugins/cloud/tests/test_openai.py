"""The provider ``openai``: its requests, and its use of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pattern_cloud.openai_embedder import OpenAIEmbedder
from pattern_cloud.openai_options import OpenAIOptions
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ConfigError, EmbeddingError, InvalidVectorError, ModelUnavailableError
from pattern_core.toolkit import Secret

pytestmark = pytest.mark.anyio

PATH: Final = "/v1/embeddings"


async def opened(cloud: Any, **given: Any) -> OpenAIEmbedder:
    """Open the provider with the local server."""
    usual = {"base_url": f"{cloud.url}/v1", "api_key": Secret(cloud.key)}
    return await OpenAIEmbedder.open(OpenAIOptions(**{**usual, **given}))


class TestRequests:
    """Requests follow the options."""

    async def test_a_batch_is_one_request(self, cloud: Any) -> None:
        """One request holds all texts of a call, with their prompts; dimensions are sent only if they are set."""
        async with await opened(cloud, dimensions=64, document_prompt="d: ", query_prompt="q: ") as embedder:
            await embedder.embed_documents(["tea", "coffee"])
            await embedder.embed_query("tea")
        async with await opened(cloud, encoding_format="float") as embedder:
            await embedder.embed_query("tea")
        usual = {"model": "text-embedding-3-small", "encoding_format": "base64", "dimensions": 64}
        assert cloud.asked(PATH) == [
            {**usual, "input": ["d: tea", "d: coffee"]},
            {**usual, "input": ["q: tea"]},
            {"model": "text-embedding-3-small", "encoding_format": "float", "input": ["tea"]},
        ]

    async def test_limits(self, cloud: Any) -> None:
        """Batch size and concurrency come from the options, the token limits from OpenAI."""
        async with await opened(cloud, batch_size=7, concurrency=3) as embedder:
            assert (embedder.max_batch, embedder.concurrency, embedder.max_batch_tokens) == (7, 3, 300_000)
            assert embedder.signature.max_tokens == 8192
        async with await opened(cloud, model="tiny", max_tokens=16) as embedder:
            assert embedder.max_batch_tokens is None


class TestEncodings:
    """The encoding does not change the vectors."""

    async def test_base64_and_float_agree(self, cloud: Any) -> None:
        """Both encodings, and floats from a server that ignores base64, give the same vectors."""
        found = []
        for encoding, floats_only in (("base64", False), ("float", False), ("base64", True)):
            cloud.floats_only = floats_only
            async with await opened(cloud, encoding_format=encoding) as embedder:
                found.append(await embedder.embed_documents(["tea", "coffee in the morning"]))
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])

    @pytest.mark.parametrize("vector", ["no base64!", "AAAAAAA=", "AACAPw=="])
    async def test_broken_base64_is_refused(self, cloud: Any, reply: Callable[..., Any], vector: str) -> None:
        """A vector that is not base64, is cut within a number or is too short is rejected."""
        async with await opened(cloud) as embedder:
            cloud.replies[PATH] = [reply(body={"data": [{"index": 0, "embedding": vector}]})]
            with pytest.raises(InvalidVectorError):
                await embedder.embed_query("tea")

    async def test_vectors_are_sorted_by_their_index(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """Vectors in another order are sorted; repeated indexes are rejected."""
        first, second = np.eye(2, 1536).tolist()
        swapped = [{"index": 1, "embedding": second}, {"index": 0, "embedding": first}]
        repeated = [{"index": 0, "embedding": second}, {"index": 0, "embedding": first}]
        async with await opened(cloud) as embedder:
            cloud.replies[PATH] = [reply(body={"data": swapped}), reply(body={"data": repeated})]
            assert np.array_equal(await embedder.embed_documents(["tea", "coffee"]), np.eye(2, 1536))
            with pytest.raises(InvalidVectorError, match="indexes"):
                await embedder.embed_documents(["tea", "coffee"])


class TestOtherServers:
    """Other servers with OpenAI's API, and their own models."""

    async def test_an_unknown_model(self, cloud: Any) -> None:
        """The dimensions of an unknown model come from a test call."""
        async with await opened(cloud, model="tiny", max_tokens=16) as embedder:
            assert embedder.signature.dimensions == 32
            assert embedder.signature.max_tokens == 16

    async def test_a_reported_limit(self, cloud: Any) -> None:
        """Servers like vLLM and SGLang report the token limit."""
        cloud.listing = {"max_model_len": 16}
        async with await opened(cloud, model="tiny") as embedder:
            assert embedder.signature.max_tokens == 16

    @pytest.mark.parametrize("status", [200, 404])
    async def test_an_unknown_limit_must_be_set(self, cloud: Any, reply: Callable[..., Any], status: int) -> None:
        """Otherwise a server might truncate texts silently."""
        cloud.replies["/v1/models"] = [reply(status, {"object": "list", "data": []})]
        with pytest.raises(ConfigError, match=r"max_tokens is missing") as caught:
            await opened(cloud, model="tiny")
        assert caught.value.key == "embeddings.max_tokens"

    async def test_a_missing_model_is_named(self, cloud: Any) -> None:
        """Opening a model that the server lacks fails, with its name."""
        with pytest.raises(ModelUnavailableError, match="huge"):
            await opened(cloud, model="huge", max_tokens=16)

    async def test_ignored_dimensions_are_noticed(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """Opening fails if the server ignores `dimensions`."""
        cloud.replies[PATH] = [reply(body={"data": [{"index": 0, "embedding": [1.0] * 32}]})]
        with pytest.raises(InvalidVectorError, match="32"):
            await opened(cloud, model="tiny", max_tokens=16, dimensions=8)


class TestQuota:
    """A spent quota needs a person."""

    async def test_a_spent_quota_is_not_transient(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """OpenAI sends status 429 for a spent quota as well as for too many requests; its error code tells them apart."""
        error = {"message": "You exceeded your current quota.", "type": "x", "code": "insufficient_quota"}
        async with await opened(cloud) as embedder:
            cloud.replies[PATH] = [reply(429, {"error": error})]
            with pytest.raises(EmbeddingError, match="quota") as caught:
                await embedder.embed_query("tea")
        assert not caught.value.transient


class TestTokens:
    """Documents are never truncated silently."""

    async def test_a_tokenizer_counts(self, cloud: Any, words: Path) -> None:
        """A file counts whole texts, with prompt and special tokens, even if the file sets a truncation."""
        async with await opened(cloud, model="tiny", max_tokens=16, tokenizer=words, document_prompt="d: ") as embedder:
            assert await embedder.count_tokens(["tea", "a b c d e f g h"]) == [4, 11]

    async def test_without_a_tokenizer_bytes_are_counted(self, cloud: Any) -> None:
        """Without a tokenizer the count is an upper bound: the bytes and two special tokens."""
        async with await opened(cloud, model="tiny", max_tokens=16) as embedder:
            assert await embedder.count_tokens(["tea", "日本"]) == [5, 8]

    async def test_openais_models_are_counted_by_tiktoken(self, cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tiktoken's encoding counts, and treats a text that looks like a special token as text."""
        import tiktoken

        letters = {bytes([byte]): byte for byte in range(256)} | {b"te": 256, b"tea": 257}
        special = {"<|endoftext|>": 258}
        encoding = tiktoken.Encoding("small", pat_str=r"\S+|\s+", mergeable_ranks=letters, special_tokens=special)
        monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", encoding)
        async with await opened(cloud, document_prompt="tea") as embedder:
            assert await embedder.count_tokens(["tea", " milk", "<|endoftext|>"]) == [2, 6, 13]

    async def test_an_encoding_that_cannot_be_fetched(self, cloud: Any, caplog: pytest.LogCaptureFixture) -> None:
        """If tiktoken cannot fetch it, bytes are counted, after one warning."""
        async with await opened(cloud) as embedder:
            assert await embedder.count_tokens(["tea"]) == [5]
            assert await embedder.count_tokens(["coffee"]) == [8]
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert "cannot be fetched" in record.getMessage()

    async def test_a_long_query_is_truncated(self, cloud: Any, words: Path) -> None:
        """Core truncates a query over the token limit, by the counts of the embedder."""
        model = EmbeddingModel(lambda: opened(cloud, model="tiny", max_tokens=16, tokenizer=words))
        await model.embed_query("tea " * 100)
        await model.aclose()
        assert cloud.asked(PATH)[-1]["input"][0].split() == ["tea"] * 14

    async def test_an_unreadable_tokenizer_is_named(self, cloud: Any, tmp_path: Path) -> None:
        """Opening fails with a `ConfigError` if the tokenizer cannot be read."""
        (tmp_path / "tokenizer.json").write_text("{}")
        for path in (tmp_path / "tokenizer.json", tmp_path / "missing.json"):
            with pytest.raises(ConfigError, match=path.name) as caught:
                await opened(cloud, tokenizer=path)
            assert caught.value.key == "embeddings.tokenizer"

"""The provider ``cohere``: its requests, and its use of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pattern_cloud.cohere_embedder import CohereEmbedder
from pattern_cloud.cohere_options import CohereOptions
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ConfigError, EmbeddingError, ModelUnavailableError
from pattern_core.toolkit import Secret

pytestmark = pytest.mark.anyio

PATH: Final = "/v2/embed"
ENGLISH: Final = "embed-english-v3.0"


async def opened(cloud: Any, **given: Any) -> CohereEmbedder:
    """Open the provider with the local server."""
    usual = {"model": ENGLISH, "base_url": cloud.url, "api_key": Secret(cloud.key)}
    return await CohereEmbedder.open(CohereOptions(**{**usual, **given}))


class TestRequests:
    """Requests follow the options."""

    async def test_queries_and_documents_have_their_types(self, cloud: Any, words: Path) -> None:
        """The input type is that of the call, and Cohere may not truncate."""
        async with await opened(cloud, tokenizer=words) as embedder:
            (document,) = await embedder.embed_documents(["tea"])
            query = await embedder.embed_query("tea")
            assert embedder.signature.query_prompt != embedder.signature.document_prompt
        usual = {"model": ENGLISH, "embedding_types": ["float"], "truncate": "NONE", "texts": ["tea"]}
        assert cloud.asked(PATH) == [
            {**usual, "input_type": "search_document"},
            {**usual, "input_type": "search_query"},
        ]
        assert not np.allclose(document, query)

    async def test_vectors_can_be_shortened(self, cloud: Any) -> None:
        """From version 4 on, `dimensions` is sent as output_dimension."""
        async with await opened(cloud, model="embed-v4.0", dimensions=256) as embedder:
            assert (await embedder.embed_documents(["tea"])).shape == (1, 256)
            assert embedder.signature.dimensions == 256
        assert cloud.asked(PATH)[0]["output_dimension"] == 256

    async def test_limits(self, cloud: Any) -> None:
        """A request holds at most 96 texts; concurrency comes from the options, the token limit from the model."""
        async with await opened(cloud, concurrency=3) as embedder:
            assert (embedder.max_batch, embedder.concurrency, embedder.signature.max_tokens) == (96, 3, 512)

    async def test_an_unknown_model(self, cloud: Any) -> None:
        """The token limit comes from Cohere's description of the model, the dimensions from a test call."""
        async with await opened(cloud, model="tiny") as embedder:
            assert (embedder.signature.dimensions, embedder.signature.max_tokens) == (32, 16)

    async def test_a_model_without_a_limit(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """If Cohere does not report the token limit, it must be set."""
        cloud.replies["/v1/models/tiny"] = [reply(body={"name": "tiny"})]
        with pytest.raises(ConfigError, match="max_tokens"):
            await opened(cloud, model="tiny")

    async def test_a_missing_model_is_named(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """Opening a model that Cohere lacks fails, with its name."""
        cloud.replies["/v1/models/huge"] = [reply(404, {"message": "model 'huge' not found"})]
        with pytest.raises(ModelUnavailableError, match="huge"):
            await opened(cloud, model="huge")


class TestTokens:
    """Documents are never truncated silently."""

    async def test_the_models_tokenizer_counts(self, cloud: Any, words: Path) -> None:
        """The tokenizer is fetched once, from the URL that Cohere names, without the key (the server checks that)."""
        cloud.tokenizer = words.read_text()
        async with await opened(cloud) as embedder:
            assert await embedder.count_tokens(["tea", "a b c d e f g h"]) == [3, 10]
            assert await embedder.count_tokens(["tea " * 600]) == [602]
        assert len(cloud.asked(f"/files/{ENGLISH}.json")) == 1

    async def test_a_tokenizer_that_cannot_be_fetched(self, cloud: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Without the file bytes are counted, after one warning."""
        async with await opened(cloud) as embedder:
            assert await embedder.count_tokens(["tea"]) == [5]
            assert await embedder.count_tokens(["coffee"]) == [8]
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert "cannot be fetched" in record.getMessage()

    async def test_a_transient_failure_of_a_count(self, cloud: Any, words: Path, reply: Callable[..., Any]) -> None:
        """If Cohere fails for a while, so does the count; the next one works."""
        cloud.tokenizer = words.read_text()
        cloud.replies[f"/v1/models/{ENGLISH}"] = [reply(429, {"message": "slow down"}, {"Retry-After": "3"})]
        async with await opened(cloud) as embedder:
            with pytest.raises(EmbeddingError, match="slow down") as caught:
                await embedder.count_tokens(["tea"])
            assert (caught.value.transient, caught.value.retry_after) == (True, 3.0)
            assert await embedder.count_tokens(["tea"]) == [3]

    async def test_a_long_query_is_truncated(self, cloud: Any, words: Path) -> None:
        """Core truncates a query over the token limit, by the counts of the embedder."""
        model = EmbeddingModel(lambda: opened(cloud, tokenizer=words))
        await model.embed_query("tea " * 1000)
        await model.aclose()
        assert cloud.asked(PATH)[-1]["texts"][0].split() == ["tea"] * 510

"""What the provider ``cohere`` asks of Cohere, and what it makes of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pattern_cloud.cohere_embedder import CohereEmbedder
from pattern_cloud.cohere_plugin import CohereOptions
from pattern_core.errors import ConfigError, EmbeddingError, ModelUnavailableError
from pattern_core.toolkit import Secret

pytestmark = pytest.mark.anyio

PATH: Final = "/v2/embed"
ENGLISH: Final = "embed-english-v3.0"


async def opened(cloud: Any, **given: Any) -> CohereEmbedder:
    """Open the provider over the local server."""
    usual = {"model": ENGLISH, "base_url": cloud.url, "api_key": Secret(cloud.key)}
    return await CohereEmbedder.open(CohereOptions(**{**usual, **given}))


class TestRequests:
    """Cohere is asked for what the options say."""

    async def test_queries_and_documents_have_their_types(self, cloud: Any, words: Path) -> None:
        """The call decides on the input type, and nothing may be cut."""
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

    async def test_core_is_told_the_limits(self, cloud: Any) -> None:
        """A request takes 96 texts at most."""
        async with await opened(cloud, concurrency=3) as embedder:
            assert (embedder.max_batch, embedder.concurrency, embedder.signature.max_tokens) == (96, 3, 512)

    async def test_a_model_that_is_not_known_is_asked_for(self, cloud: Any) -> None:
        """What it reads comes from Cohere's list, the length of its vectors from a try."""
        async with await opened(cloud, model="tiny") as embedder:
            assert (embedder.signature.dimensions, embedder.signature.max_tokens) == (32, 16)

    async def test_a_model_without_a_limit_needs_one(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """Where Cohere does not say what the model reads, it has to be set."""
        cloud.replies["/v1/models/tiny"] = [reply(body={"name": "tiny"})]
        with pytest.raises(ConfigError, match="max_tokens"):
            await opened(cloud, model="tiny")

    async def test_a_missing_model_is_named(self, cloud: Any, reply: Callable[..., Any]) -> None:
        """A model that Cohere lacks is found missing when it is opened."""
        cloud.replies["/v1/models/huge"] = [reply(404, {"message": "model 'huge' not found"})]
        with pytest.raises(ModelUnavailableError, match="huge"):
            await opened(cloud, model="huge")


class TestTokens:
    """No document is cut in silence."""

    async def test_the_models_tokenizer_counts(self, cloud: Any, words: Path) -> None:
        """The tokenizer is fetched from where Cohere says, once, and the key does not go there (the server sees to it)."""
        cloud.tokenizer = words.read_text()
        async with await opened(cloud) as embedder:
            assert await embedder.count_tokens(["tea", "a b c d e f g h"]) == [3, 10]
            assert await embedder.count_tokens(["tea " * 600]) == [602]
        assert len(cloud.asked(f"/files/{ENGLISH}.json")) == 1

    async def test_a_tokenizer_out_of_reach_is_said_once(self, cloud: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Where the file cannot be fetched, bytes are counted instead, and one warning says so."""
        async with await opened(cloud) as embedder:
            assert await embedder.count_tokens(["tea"]) == [5]
            assert await embedder.count_tokens(["coffee"]) == [8]
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert "cannot be fetched" in record.getMessage()

    async def test_a_failure_of_cohere_is_one(self, cloud: Any, words: Path, reply: Callable[..., Any]) -> None:
        """Where Cohere itself fails for a while, so does the count, and the next one works."""
        cloud.tokenizer = words.read_text()
        cloud.replies[f"/v1/models/{ENGLISH}"] = [reply(429, {"message": "slow down"}, {"Retry-After": "3"})]
        async with await opened(cloud) as embedder:
            with pytest.raises(EmbeddingError, match="slow down") as caught:
                await embedder.count_tokens(["tea"])
            assert (caught.value.transient, caught.value.retry_after) == (True, 3.0)
            assert await embedder.count_tokens(["tea"]) == [3]

    async def test_a_long_query_is_cut(self, cloud: Any, words: Path) -> None:
        """A query that is too long finds by as much of its beginning as the model reads."""
        async with await opened(cloud, tokenizer=words) as embedder:
            await embedder.embed_query("tea " * 1000)
        assert cloud.asked(PATH)[-1]["texts"][0].split() == ["tea"] * 510

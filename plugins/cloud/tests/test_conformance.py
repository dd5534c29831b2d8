"""The providers fulfill the contract of `pattern_core.abc.Embedder`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from pattern_cloud import cohere_plugin, openai_plugin
from pattern_cloud.cohere_options import CohereOptions
from pattern_cloud.openai_options import OpenAIOptions
from pattern_core.testing import EmbedderContract
from pattern_core.toolkit import Secret

OPENAI_KEY: Final = os.environ.get("OPENAI_API_KEY")
COHERE_KEY: Final = os.environ.get("CO_API_KEY")


class TestOpenAI(EmbedderContract):
    """OpenAI's default model."""

    spec = openai_plugin.pattern_embeddings()

    @pytest.fixture
    def options(self, cloud: Any) -> OpenAIOptions:
        """The local server."""
        return OpenAIOptions(base_url=f"{cloud.url}/v1", api_key=Secret(cloud.key))


class TestShortened(EmbedderContract):
    """Shortened vectors as JSON numbers, prompts, small batches, and a tokenizer."""

    spec = openai_plugin.pattern_embeddings()

    @pytest.fixture
    def options(self, cloud: Any, words: Path) -> OpenAIOptions:
        """The local server."""
        return OpenAIOptions(
            model="text-embedding-3-large",
            base_url=f"{cloud.url}/v1",
            api_key=Secret(cloud.key),
            dimensions=256,
            encoding_format="float",
            tokenizer=words,
            query_prompt="query: ",
            document_prompt="passage: ",
            batch_size=5,
        )


class TestCohere(EmbedderContract):
    """Cohere's version 4."""

    spec = cohere_plugin.pattern_embeddings()

    @pytest.fixture
    def options(self, cloud: Any, words: Path) -> CohereOptions:
        """The local server."""
        cloud.tokenizer = words.read_text()
        return CohereOptions(base_url=cloud.url, api_key=Secret(cloud.key), dimensions=512)


class TestCohere3(EmbedderContract):
    """Cohere's version 3."""

    spec = cohere_plugin.pattern_embeddings()

    @pytest.fixture
    def options(self, cloud: Any, words: Path) -> CohereOptions:
        """The local server."""
        cloud.tokenizer = words.read_text()
        return CohereOptions(model="embed-english-v3.0", base_url=cloud.url, api_key=Secret(cloud.key))


@pytest.mark.skipif(OPENAI_KEY is None, reason="OPENAI_API_KEY is not set: OpenAI itself is not tested")
class TestOpenAILive(EmbedderContract):
    """OpenAI itself."""

    spec = openai_plugin.pattern_embeddings()
    rounding = 1e-3

    @pytest.fixture
    def options(self, monkeypatch: pytest.MonkeyPatch) -> OpenAIOptions:
        """The key that the environment had."""
        monkeypatch.undo()
        return OpenAIOptions()


@pytest.mark.skipif(COHERE_KEY is None, reason="CO_API_KEY is not set: Cohere itself is not tested")
class TestCohereLive(EmbedderContract):
    """Cohere itself."""

    spec = cohere_plugin.pattern_embeddings()
    rounding = 1e-3

    @pytest.fixture
    def options(self, monkeypatch: pytest.MonkeyPatch) -> CohereOptions:
        """The key that the environment had."""
        monkeypatch.undo()
        return CohereOptions(model="embed-english-v3.0")

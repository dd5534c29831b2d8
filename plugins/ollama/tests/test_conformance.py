"""The plugin fulfills the contract of `pattern_core.abc.Embedder`."""

from __future__ import annotations

import os
from typing import Any, Final

import pytest

from pattern_core.testing import EmbedderContract
from pattern_ollama.options import OllamaOptions
from pattern_ollama.plugin import pattern_embeddings

LIVE_HOST: Final = os.environ.get("OLLAMA_HOST")


class TestOllama(EmbedderContract):
    """A model without prompts, over HTTP."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, ollama: Any) -> OllamaOptions:
        """The local server."""
        return OllamaOptions(model="all-minilm", host=ollama.url)


class TestPrompts(EmbedderContract):
    """A model with recommended prompts, and shortened vectors."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self, ollama: Any) -> OllamaOptions:
        """The local server."""
        ollama.model, ollama.context, ollama.parameters = "embeddinggemma:latest", 2048, ""
        return OllamaOptions(model="embeddinggemma", host=ollama.url, dimensions=128, batch_size=5)


@pytest.mark.skipif(LIVE_HOST is None, reason="OLLAMA_HOST is not set: no Ollama server to test against")
class TestLive(EmbedderContract):
    """A real server, which pulls a missing model."""

    spec = pattern_embeddings()

    @pytest.fixture
    def options(self) -> OllamaOptions:
        """The server that the environment names."""
        return OllamaOptions(model="all-minilm", host=LIVE_HOST, auto_pull=True, timeout=600)

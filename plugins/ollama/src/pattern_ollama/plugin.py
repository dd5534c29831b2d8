"""The hook of the plugin. Importing it imports no client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_core.hookspecs import EmbeddingSpec, hookimpl

from .options import OllamaOptions

if TYPE_CHECKING:
    from .embedder import OllamaEmbedder

__all__ = ["OllamaOptions", "pattern_embeddings"]


async def _open(options: OllamaOptions) -> OllamaEmbedder:
    from .embedder import OllamaEmbedder

    return await OllamaEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(options=OllamaOptions, open=_open, summary="an Ollama server, on this machine or another")

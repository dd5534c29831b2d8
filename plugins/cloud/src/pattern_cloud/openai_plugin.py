"""The hook of the provider ``openai``. Importing it imports no client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_core.hookspecs import EmbeddingSpec, hookimpl

from .openai_options import OpenAIOptions

if TYPE_CHECKING:
    from .openai_embedder import OpenAIEmbedder

__all__ = ["OpenAIOptions", "pattern_embeddings"]


async def _open(options: OpenAIOptions) -> OpenAIEmbedder:
    from .openai_embedder import OpenAIEmbedder

    return await OpenAIEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(options=OpenAIOptions, open=_open, summary="OpenAI, and servers with OpenAI's API")

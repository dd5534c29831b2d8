"""The hook of the provider ``cohere``. Importing it imports no client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_core.hookspecs import EmbeddingSpec, hookimpl

from .cohere_options import CohereOptions

if TYPE_CHECKING:
    from .cohere_embedder import CohereEmbedder

__all__ = ["CohereOptions", "pattern_embeddings"]


async def _open(options: CohereOptions) -> CohereEmbedder:
    from .cohere_embedder import CohereEmbedder

    return await CohereEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(
        options=CohereOptions, open=_open, summary="Cohere, with input types for queries and documents"
    )

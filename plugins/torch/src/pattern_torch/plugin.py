"""The hook of the plugin. Importing it imports neither torch nor sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pattern_core.hookspecs import EmbeddingSpec, hookimpl

from .options import TorchOptions

if TYPE_CHECKING:
    from .embedder import TorchEmbedder

__all__ = ["TorchOptions", "pattern_embeddings"]


async def _open(options: TorchOptions) -> TorchEmbedder:
    from .embedder import TorchEmbedder

    return await TorchEmbedder.open(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(
        options=TorchOptions,
        open=_open,
        summary="sentence-transformers on PyTorch, on this machine; BERT and related models",
    )

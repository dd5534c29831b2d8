"""A deterministic embedder, for tests without a model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.hookspecs import EmbeddingSpec

__all__ = ["LetterEmbedder", "LetterOptions", "letter_embeddings"]


class LetterEmbedder(Embedder):
    """A deterministic embedder with 64 dimensions that counts pairs of letters. Similar words get similar vectors.

    A token is a character, and the token limit is 300, so that tests can exceed it.
    """

    @property
    def signature(self) -> Signature:
        return Signature(
            provider="letters", model="pairs", revision="1", dimensions=64, normalized=True, max_tokens=300
        )

    @property
    def max_batch(self) -> int:
        return 8

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for pair in zip(f" {text}", f"{text} ", strict=True):
                vector[zlib.crc32("".join(pair).encode()) % 64] += 1
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self.embed_documents([text]))[0]
        return vector

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    async def aclose(self) -> None:
        """There is nothing to release."""


@attrs.frozen(kw_only=True)
class LetterOptions:
    """The letter embedder has no options."""


async def _open_letters(options: LetterOptions) -> LetterEmbedder:  # noqa: ARG001 - there are no options to use
    return LetterEmbedder()


def letter_embeddings() -> EmbeddingSpec:
    """Describe the letter embedder, as the hook of a plugin does.

    Returns:
        The spec.
    """
    return EmbeddingSpec(
        options=LetterOptions, open=_open_letters, semantic=False, summary="pairs of letters, for tests"
    )

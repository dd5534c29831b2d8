"""A lexical embedding provider that needs no download: it finds texts with similar words, not similar meaning.

The words of a text, and their character n-grams of length three and four, are hashed into the numbers of a vector, each
with a hashed sign (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"). The n-grams make
"e-mails" similar to "email", as in fastText (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information").
Long words weigh more than short ones, since in most languages short words are frequent and carry little meaning.
Repeats of a word weigh less each time.
"""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from pattern_core.abc import Embedder, Signature, Vector
from pattern_core.errors import ClosedError
from pattern_core.hookspecs import EmbeddingSpec, hookimpl
from pattern_core.support.validators import integer

__all__ = ["HashingEmbedder", "HashingOptions", "pattern_embeddings"]

REVISION: Final = "1"
"""The version of the algorithm. A change of any vector must change it."""

MAX_BATCH: Final = 512
MAX_DIMENSIONS: Final = 1 << 16
_INLINE_CHARACTERS: Final = 10_000
"""Up to this many characters, about two milliseconds, are embedded on the event loop; more in a thread."""
_SHORTEST_VECTOR: Final = 1e-6
"""Below this length, the signs have cancelled out, and only rounding is left."""

# Very long words, such as base64, are divided to bound the memory of a word.
_WORD: Final = re.compile(r"[^\W_]{1,64}")


@attrs.frozen
class HashingOptions:
    """The options under ``[embeddings]``.

    Attributes:
        dimensions: The length of the vectors. Smaller vectors save memory and confuse more words.
    """

    dimensions: int = attrs.field(default=1024, validator=[integer(minimum=16), attrs.validators.le(MAX_DIMENSIONS)])


@lru_cache(maxsize=20_000)
def _features(word: str) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Return the hashes of a word and its n-grams, uint64 ``[n]``, and their weights, float64 ``[n]``."""
    if word.isalpha() and word.upper() == word.lower():
        # Scripts without case, such as Chinese, may not separate words: use shorter n-grams, without word boundaries.
        pieces = [word[start : start + size] for size in (1, 2) for start in range(len(word) - size + 1)]
    else:
        marked = f"<{word}>"
        pieces = [marked[start : start + size] for size in (3, 4) for start in range(len(marked) - size + 1)]
    weight = math.log(len(word) + 0.2)
    hashes = [_hash("word", word), *(_hash("piece", piece) for piece in pieces)]
    weights = [weight] + [weight / math.sqrt(len(pieces))] * len(pieces)
    return np.array(hashes, dtype=np.uint64), np.array(weights)


def _hash(kind: str, text: str) -> int:
    # A lone surrogate has no UTF-8, but needs a hash.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=kind.encode())
    return int.from_bytes(digest.digest(), "little")


def _embed(text: str, dimensions: int) -> Vector:
    normal = unicodedata.normalize("NFKC", text).casefold()
    # A text without words, such as an emoji, is divided at white space.
    counts = Counter(_WORD.findall(normal) or [run[:64] for run in normal.split()] or [normal])
    found = [_features(word) for word in counts]
    hashes = np.concatenate([hashes for hashes, _ in found])
    weights = np.concatenate([weights * math.sqrt(n) for (_, weights), n in zip(found, counts.values(), strict=True)])
    signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
    vector = np.zeros(dimensions)
    np.add.at(vector, hashes % np.uint64(dimensions), weights * signs)
    length = float(np.linalg.norm(vector))
    if length < _SHORTEST_VECTOR:
        vector[:] = 0.0
        vector[_hash("text", normal) % dimensions] = length = 1.0
    return (vector / length).astype(np.float32)


class HashingEmbedder(Embedder):
    """Embeds texts by hashing their words and character n-grams.

    Args:
        options: The options.
    """

    def __init__(self, options: HashingOptions) -> None:
        self._dimensions = options.dimensions
        self._closed = False

    @property
    def signature(self) -> Signature:
        return Signature(
            provider="hashing",
            model="lexical",
            revision=REVISION,
            dimensions=self._dimensions,
            normalized=True,
        )

    @property
    def max_batch(self) -> int:
        return MAX_BATCH

    async def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._closed:
            raise ClosedError("the hashing embedder is closed. Open the database again.")
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return self._embed_all(texts)
        return await asyncio.to_thread(self._embed_all, texts)

    async def embed_query(self, text: str) -> Vector:
        vector: Vector = (await self.embed_documents([text]))[0]
        return vector

    async def aclose(self) -> None:
        self._closed = True

    def _embed_all(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_embed(text, self._dimensions) for text in texts])


async def _open(options: HashingOptions) -> HashingEmbedder:
    return HashingEmbedder(options)


@hookimpl
def pattern_embeddings() -> EmbeddingSpec:
    """Describe the provider."""
    return EmbeddingSpec(
        options=HashingOptions,
        open=_open,
        semantic=False,
        cached=False,
        summary="lexical: finds similar words, not similar meaning; needs no download",
    )

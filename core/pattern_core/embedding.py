"""From texts to checked vectors, the same for every embedding provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np

from .abc import Embedder, Health, Signature, Vector
from .config import Overflow
from .errors import (
    ClosedError,
    EmbeddingError,
    InvalidVectorError,
    PatternError,
    SignatureMismatchError,
    TextTooLongError,
    ValidationError,
)
from .validators import as_vector, check_text

__all__ = ["Embeddings"]


class Embeddings:
    """The embedding model of a database, loaded when it is first needed.

    Args:
        load: Opens the embedder.
        overflow: What happens to a text that is longer than the model reads: ``error`` or ``truncate``.
    """

    def __init__(self, load: Callable[[], Awaitable[Embedder]], overflow: Overflow) -> None:
        self._load = load
        self._overflow = overflow
        self._embedder: Embedder | None = None
        self._loading = asyncio.Lock()
        self._stored: Signature | None = None
        self._closed = False

    @property
    def loaded(self) -> Embedder | None:
        """The embedder, if it has been loaded."""
        return self._embedder

    async def signature(self) -> Signature:
        """Load the model if need be, and return its signature."""
        return (await self._ready()).signature

    def expect(self, stored: Signature) -> None:
        """Tie the model to the signature that a database's vectors have.

        Args:
            stored: The signature of the stored vectors.

        Raises:
            SignatureMismatchError: The loaded model has another. One that is loaded later is checked then.
        """
        self._stored = stored
        if self._embedder is not None:
            self._check(self._embedder)

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """Embed texts that are to be found. Repeats are embedded once.

        Args:
            texts: The texts, none of them blank.

        Returns:
            For each text a read-only float32 array, shape ``[dimensions]``.

        Raises:
            TextTooLongError: A text has more tokens than the model reads, and ``overflow`` is ``error``.
            SignatureMismatchError: The database's vectors were made by another model.
            EmbeddingError: The model failed, or returned what cannot be used.
        """
        if not texts:
            return []
        embedder = await self._ready()
        distinct = list(dict.fromkeys(texts))
        await self._check_length(embedder, distinct, texts)
        vectors: dict[str, Vector] = {}
        for start in range(0, len(distinct), embedder.max_batch):
            part = distinct[start : start + embedder.max_batch]
            with _as_embedding_error(embedder.signature):
                found = np.asarray(await embedder.embed_documents(part), dtype=np.float32)
            if found.ndim == 0 or len(found) != len(part):
                message = f"{embedder.signature} returned an array of shape {list(found.shape)} for {len(part)} texts"
                raise InvalidVectorError(message)
            for text, vector in zip(part, found, strict=True):
                vectors[text] = as_vector(vector, embedder.signature.dimensions)
        return [vectors[text] for text in texts]

    async def query(self, text: str) -> Vector:
        """Embed a text to find others by.

        Args:
            text: The text, not blank. What is longer than the model reads is cut off.

        Returns:
            A read-only float32 array, shape ``[dimensions]``.

        Raises:
            ValidationError: The text is blank.
            SignatureMismatchError: The database's vectors were made by another model.
            EmbeddingError: The model failed, or returned what cannot be used.
        """
        if not check_text(text, "search", "text").strip():
            raise ValidationError("the text to search for is blank", where="search", field="text")
        embedder = await self._ready()
        with _as_embedding_error(embedder.signature):
            vector = await embedder.embed_query(text)
        return as_vector(vector, embedder.signature.dimensions)

    async def health(self) -> Health:
        """Say which model is loaded, without loading one."""
        if self._embedder is None:
            expected = str(self._stored) if self._stored else "not known yet"
            return Health(ok=True, engine=expected, details={"loaded": False})
        signature = self._embedder.signature
        details: dict[str, str | int | float | bool] = {"loaded": True, "dimensions": signature.dimensions}
        return Health(ok=True, engine=f"{signature.provider} {signature.model}", details=details)

    async def aclose(self) -> None:
        """Let the model go. A second call does nothing."""
        async with self._loading:  # one that is being loaded is let go as well
            self._closed = True
            embedder, self._embedder = self._embedder, None
            if embedder is not None:
                await embedder.aclose()

    async def _ready(self) -> Embedder:
        async with self._loading:
            if self._closed:
                raise ClosedError("the database is closed. Open it again with pattern_core.open(…).")
            if self._embedder is None:
                embedder = await self._load()
                try:
                    self._check(embedder)
                except SignatureMismatchError:
                    await embedder.aclose()
                    raise
                self._embedder = embedder
            return self._embedder

    def _check(self, embedder: Embedder) -> None:
        if self._stored is not None and embedder.signature != self._stored:
            raise SignatureMismatchError(str(self._stored), str(embedder.signature))

    async def _check_length(self, embedder: Embedder, distinct: Sequence[str], texts: Sequence[str]) -> None:
        limit = embedder.signature.max_tokens
        if limit is None or self._overflow != "error":
            return
        for text, tokens in zip(distinct, await embedder.count_tokens(distinct), strict=True):
            if tokens > limit:
                raise TextTooLongError(tokens, limit, list(texts).index(text), text)


@contextlib.contextmanager
def _as_embedding_error(signature: Signature) -> Iterator[None]:
    """Turn whatever an embedder raises into an error of ours, with what it was behind it."""
    try:
        yield
    except (PatternError, NotImplementedError):
        raise
    except Exception as error:
        message = f"{signature} failed: {type(error).__name__}: {error}. Nothing was written; try again."
        raise EmbeddingError(message, provider=signature.provider, model=signature.model) from error

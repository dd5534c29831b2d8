"""From texts to checked vectors, the same for every embedding provider."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

from .abc import Detail, Embedder, Health, Signature, Vector
from .cache import VectorCache
from .config import EmbeddingPolicy
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

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Between attempts, in seconds."""

T = TypeVar("T")


def _ignore(_count: int) -> None: ...


class Embeddings:
    """The embedding model of a database, loaded when it is first needed.

    Args:
        load: Opens the embedder.
        policy: How texts are embedded.
        cache: Where vectors are kept between runs; None for nowhere.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Embedder]],
        policy: EmbeddingPolicy | None = None,
        *,
        cache: VectorCache | None = None,
    ) -> None:
        self._load = load
        self._policy = policy or EmbeddingPolicy()
        self._cache = cache
        self._embedder: Embedder | None = None
        self._loading = asyncio.Lock()
        self._stored: Signature | None = None
        self._not_before = 0.0  # when a service that asked to be left alone may be called again
        self._counts = {"embedded": 0, "from_cache": 0}
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

    async def documents(self, texts: Sequence[str], *, progress: Callable[[int], None] = _ignore) -> list[Vector]:
        """Embed texts that are to be found. Repeats, and what is in the cache, cost nothing.

        Batches go to the model as many at a time as it takes. One that fails for a while is repeated, alone, until the
        deadline. What was embedded before a failure is in the cache, so that another call goes on from there.

        Args:
            texts: The texts, none of them blank.
            progress: Called with the number of texts that are done since the last call.

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
        occurrences: dict[str, int] = {}
        for text in texts:
            occurrences[text] = occurrences.get(text, 0) + 1
        vectors = await self._look_up(embedder, "document", list(occurrences))
        progress(sum(occurrences[text] for text in vectors))
        missing = [text for text in occurrences if text not in vectors]
        tokens = await self._count_tokens(embedder, missing, texts)

        async def embed(part: Sequence[str]) -> None:
            found = await self._repeat(embedder, lambda: self._embed(embedder, part))
            vectors.update(found)
            await self._keep(embedder, "document", found)
            progress(sum(occurrences[text] for text in part))

        await _each(_pack(missing, tokens, embedder), embed, embedder.concurrency)
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
        known = await self._look_up(embedder, "query", [text])
        if text not in known:
            vector = await self._repeat(embedder, lambda: embedder.embed_query(text))
            known = {text: as_vector(vector, embedder.signature.dimensions)}
            self._counts["embedded"] += 1
            await self._keep(embedder, "query", known)
        return known[text]

    async def health(self) -> Health:
        """Say which model is loaded, without loading one."""
        if self._embedder is None:
            expected = str(self._stored) if self._stored else "not known yet"
            return Health(ok=True, engine=expected, details={"loaded": False})
        signature = self._embedder.signature
        details: dict[str, Detail] = {"loaded": True, "dimensions": signature.dimensions, **self._counts}
        return Health(ok=True, engine=f"{signature.provider} {signature.model}", details=details)

    async def aclose(self) -> None:
        """Let the model go. A second call does nothing."""
        async with self._loading:  # one that is being loaded is let go as well
            self._closed = True
            embedder, self._embedder = self._embedder, None
            if self._cache is not None:
                await self._cache.aclose()
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

    async def _count_tokens(
        self, embedder: Embedder, distinct: Sequence[str], texts: Sequence[str]
    ) -> Sequence[int] | None:
        """Count tokens where a limit asks for it, and refuse what is too long before anything is embedded."""
        limit = embedder.signature.max_tokens if self._policy.overflow == "error" else None
        if not distinct or (limit is None and embedder.max_batch_tokens is None):
            return None
        counts = await embedder.count_tokens(distinct)
        for text, tokens in zip(distinct, counts, strict=True):
            if limit is not None and tokens > limit:
                raise TextTooLongError(tokens, limit, list(texts).index(text), text)
        return counts

    async def _embed(self, embedder: Embedder, part: Sequence[str]) -> dict[str, Vector]:
        found = np.asarray(await embedder.embed_documents(part), dtype=np.float32)
        if found.ndim == 0 or len(found) != len(part):
            message = f"{embedder.signature} returned an array of shape {list(found.shape)} for {len(part)} texts"
            raise InvalidVectorError(message)
        self._counts["embedded"] += len(part)
        return {text: as_vector(each, embedder.signature.dimensions) for text, each in zip(part, found, strict=True)}

    async def _repeat(self, embedder: Embedder, call: Callable[[], Awaitable[T]]) -> T:
        """Call the model, and again where it failed for a while, until the deadline.

        The pause is drawn between nothing and a bound that doubles ("full jitter", see `pattern_core.retry`), but is
        never shorter than the service asks for; that holds for the calls beside this one, too.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.deadline
        attempt = 0
        while True:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            try:
                with _as_embedding_error(embedder.signature):
                    return await call()
            except EmbeddingError as error:
                bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
                resume = loop.time() + max(random.uniform(0, bound), error.retry_after or 0)  # noqa: S311 - no secret
                if not error.transient or resume > deadline:
                    raise
                if error.retry_after is not None:
                    self._not_before = max(self._not_before, resume)
                await asyncio.sleep(resume - loop.time())
            attempt += 1

    async def _look_up(self, embedder: Embedder, kind: str, texts: Sequence[str]) -> dict[str, Vector]:
        if self._cache is None:
            return {}
        found = await self._cache.get(embedder.signature, self._kind(kind), texts)
        self._counts["from_cache"] += len(found)
        return {text: as_vector(vector, embedder.signature.dimensions) for text, vector in found.items()}

    async def _keep(self, embedder: Embedder, kind: str, vectors: dict[str, Vector]) -> None:
        if self._cache is not None:
            await self._cache.put(embedder.signature, self._kind(kind), vectors)

    def _kind(self, kind: str) -> str:
        """Tell vectors of texts that were cut off from those of texts that had to fit."""
        return kind if self._policy.overflow == "error" else f"{kind}, {self._policy.overflow}"


def _pack(texts: Sequence[str], tokens: Sequence[int] | None, embedder: Embedder) -> list[list[str]]:
    """Divide texts into batches that the model takes, by number and by tokens; a text too large gets its own."""
    parts: list[list[str]] = []
    room = 0.0
    most = embedder.max_batch_tokens
    for position, text in enumerate(texts):
        size = tokens[position] if tokens is not None and most is not None else 0
        if not parts or len(parts[-1]) >= embedder.max_batch or size > room:
            parts.append([])
            room = float("inf") if most is None else most
        parts[-1].append(text)
        room -= size
    return parts


async def _each(parts: Sequence[T], work: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do work on each part, some at once. The first failure ends the others, and is raised when they have ended."""
    waiting = iter(parts)

    async def take() -> None:
        for part in waiting:
            await work(part)

    workers = [asyncio.create_task(take()) for _ in range(min(at_once, len(parts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


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

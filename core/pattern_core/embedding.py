"""From texts to checked vectors, the same for every embedding provider."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

import attrs
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


@attrs.frozen
class _Fitting:
    """A text, what the model reads of it, and how many tokens that has (0 where nobody asks)."""

    text: str
    read: str
    tokens: int


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
        fitting = await self._fit(embedder, missing, texts)

        async def embed(part: Sequence[_Fitting]) -> None:
            made = await self._repeat(embedder, lambda: self._embed(embedder, [each.read for each in part]))
            found = {each.text: vector for each, vector in zip(part, made, strict=True)}
            vectors.update(found)
            await self._keep(embedder, "document", found)
            progress(sum(occurrences[text] for text in found))

        await _each(_pack(fitting, embedder), embed, embedder.concurrency)
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

    async def _fit(self, embedder: Embedder, distinct: Sequence[str], texts: Sequence[str]) -> list[_Fitting]:
        """Count tokens where a limit asks for it; refuse what is too long, or cut it off, before anything is embedded."""
        limit = embedder.signature.max_tokens
        if not distinct or (limit is None and embedder.max_batch_tokens is None):
            return [_Fitting(text, text, 0) for text in distinct]
        counts = await self._repeat(embedder, lambda: embedder.count_tokens(distinct))
        fitting = []
        for text, tokens in zip(distinct, counts, strict=True):
            if limit is None or tokens <= limit:
                fitting.append(_Fitting(text, text, tokens))
            elif self._policy.overflow == "error":
                raise TextTooLongError(tokens, limit, list(texts).index(text), text)
            else:
                fitting.append(await self._cut(embedder, text, tokens, limit))
        return fitting

    async def _cut(self, embedder: Embedder, text: str, tokens: int, limit: int) -> _Fitting:
        """Return the beginning of a text that the model reads; tokens are not of one length, so it takes some tries."""
        read = text
        while tokens > limit:
            read = read[: min(len(read) - 1, max(1, len(read) * limit // tokens))]
            (tokens,) = await self._repeat(embedder, lambda: embedder.count_tokens([read]))  # noqa: B023 - awaited here
        return _Fitting(text, read, tokens)

    async def _embed(self, embedder: Embedder, part: Sequence[str]) -> list[Vector]:
        found = np.asarray(await embedder.embed_documents(part), dtype=np.float32)
        if found.ndim == 0 or len(found) != len(part):
            message = f"{embedder.signature} returned an array of shape {list(found.shape)} for {len(part)} texts"
            raise InvalidVectorError(message)
        self._counts["embedded"] += len(part)
        return [as_vector(each, embedder.signature.dimensions) for each in found]

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


def _pack(texts: Sequence[_Fitting], embedder: Embedder) -> list[list[_Fitting]]:
    """Divide texts into batches that the model takes, by number and by tokens; a text too large gets its own."""
    parts: list[list[_Fitting]] = []
    most = float("inf") if embedder.max_batch_tokens is None else embedder.max_batch_tokens
    room = 0.0
    for each in texts:
        if not parts or len(parts[-1]) >= embedder.max_batch or each.tokens > room:
            parts.append([])
            room = most
        parts[-1].append(each)
        room -= each.tokens
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

"""From texts to checked vectors, the same for every embedding provider."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import attrs
import numpy as np

from pattern_core.abc import Detail, Embedder, Health, Signature, Vector
from pattern_core.config import EmbeddingPolicy
from pattern_core.errors import (
    ClosedError,
    EmbeddingError,
    InvalidVectorError,
    PatternError,
    SignatureMismatchError,
    TextTooLongError,
    ValidationError,
)
from pattern_core.support.validators import as_vector, check_text

from .cache import VectorCache
from .splitting import split_spans

__all__ = ["Embedded", "Embeddings"]

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Between attempts, in seconds."""
CHUNK_FILL: Final = 0.8
"""How full chunks are meant to be; tokens are not of one length, and what is too long has to be cut again."""

T = TypeVar("T")


def _ignore(_count: int) -> None: ...


@attrs.frozen
class Embedded:
    """What a model made of a text.

    Attributes:
        vectors: Read-only float32 arrays, shape ``[dimensions]``: one, or one for each chunk of a text that is longer
            than the model reads.
        spans: For each vector, where the part of the text that it was made of begins and ends; None for all of it.
    """

    vectors: tuple[Vector, ...] = attrs.field(eq=False)
    spans: tuple[tuple[int, int] | None, ...]


@attrs.frozen
class _Piece:
    """What a model reads at once of a text: where it stands there (None for all of it), and its tokens if they count."""

    text: str
    span: tuple[int, int] | None
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
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def loaded(self) -> Embedder | None:
        """The embedder, if it has been loaded."""
        return self._embedder

    @property
    def embedded(self) -> int:
        """How many texts the model was given so far; those that were found in the cache do not count."""
        return self._counts["embedded"]

    @property
    def policy(self) -> EmbeddingPolicy:
        """How texts are embedded."""
        return self._policy

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

    def follow(self, stored: Signature) -> None:
        """Note that the database's vectors have another signature by now: a model that has not that is refused from now on.

        Args:
            stored: The signature of the stored vectors.
        """
        self._stored = stored

    async def documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] = _ignore, cached: bool = True
    ) -> list[Embedded]:
        """Embed texts that are to be found. Repeats, and what is in the cache, cost nothing.

        Batches go to the model as many at a time as it takes. One that fails for a while is repeated, alone, until the
        deadline. What was embedded before a failure is in the cache, so that another call goes on from there.

        Args:
            texts: The texts, none of them blank.
            progress: Called with the number of texts that are done since the last call.
            cached: Whether to look into the cache.

        Returns:
            For each text its vectors.

        Raises:
            TextTooLongError: A text has more tokens than the model reads, and ``overflow`` is ``error``.
            SignatureMismatchError: The database's vectors were made by another model.
            EmbeddingError: The model failed, or returned what cannot be used.
        """
        if not texts:
            return []
        with self._in_use():
            return await self._documents(texts, progress, cached=cached)

    async def _documents(
        self, texts: Sequence[str], progress: Callable[[int], None], *, cached: bool
    ) -> list[Embedded]:
        embedder = await self._ready()
        counts = Counter(texts)
        vectors = await self._look_up(embedder, "document", list(counts)) if cached else {}
        pieces = {text: [_Piece(text, None, 0)] for text in vectors}
        pieces |= await self._fit(embedder, [text for text in counts if text not in vectors], texts)
        distinct = {piece.text: piece for parts in pieces.values() for piece in parts}
        if cached:
            vectors |= await self._look_up(embedder, "document", [text for text in distinct if text not in counts])
        tally = _Tally({text: {piece.text for piece in parts} for text, parts in pieces.items()}, counts)
        progress(tally.finish(vectors))

        async def embed(part: Sequence[_Piece]) -> None:
            made = await self._repeat(embedder, lambda: self._embed(embedder, [each.text for each in part]))
            found = {each.text: vector for each, vector in zip(part, made, strict=True)}
            vectors.update(found)
            await self._keep(embedder, "document", found)
            progress(tally.finish(found))

        missing = [piece for piece in distinct.values() if piece.text not in vectors]
        await _each(_pack(missing, embedder), embed, embedder.concurrency)
        return [
            Embedded(tuple(vectors[each.text] for each in pieces[text]), tuple(each.span for each in pieces[text]))
            for text in texts
        ]

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Count the tokens that the model would read of each text.

        Args:
            texts: The texts.

        Returns:
            The counts; None where the model counts none.
        """
        embedder = await self._ready()
        if embedder.signature.max_tokens is None and embedder.max_batch_tokens is None:
            return None
        return await self._count_tokens(embedder, texts)

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
        with self._in_use():
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

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def retire(self) -> None:
        """Let the model go when those who are at it have done."""
        await self._idle.wait()
        await self.aclose()

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
            self._check(self._embedder)  # what is expected may have changed since it was loaded
            return self._embedder

    def _check(self, embedder: Embedder) -> None:
        if self._stored is not None and embedder.signature != self._stored:
            raise SignatureMismatchError(str(self._stored), str(embedder.signature))

    async def _fit(self, embedder: Embedder, distinct: Sequence[str], texts: Sequence[str]) -> dict[str, list[_Piece]]:
        """Say of each text what the model is to read of it; refuse what is too long, or cut it, before any is embedded."""
        limit = embedder.signature.max_tokens
        if not distinct or (limit is None and embedder.max_batch_tokens is None):
            return {text: [_Piece(text, None, 0)] for text in distinct}
        counts = await self._count_tokens(embedder, distinct)
        fitting = {}
        for text, tokens in zip(distinct, counts, strict=True):
            if limit is None or tokens <= limit:
                fitting[text] = [_Piece(text, None, tokens)]
            elif self._policy.overflow == "truncate":
                fitting[text] = [await self._cut(embedder, text, tokens, limit)]
            elif self._policy.overflow == "chunk" and (chunks := await self._chunk(embedder, text, tokens, limit)):
                fitting[text] = chunks
            else:
                raise TextTooLongError(tokens, limit, list(texts).index(text), text)
        return fitting

    async def _cut(self, embedder: Embedder, text: str, tokens: int, limit: int) -> _Piece:
        """Return the beginning of a text that the model reads; tokens are not of one length, so it takes some tries."""
        read = text
        while tokens > limit:
            read = read[: min(len(read) - 1, max(1, len(read) * limit // tokens))]
            (tokens,) = await self._count_tokens(embedder, [read])
        return _Piece(read, (0, len(read)), tokens)

    async def _chunk(self, embedder: Embedder, text: str, tokens: int, limit: int) -> list[_Piece]:
        """Cut a text where paragraphs, sentences or words end into parts that the model reads; none if it reads nothing."""
        chunks: list[_Piece] = []
        waiting = [_Piece(text, (0, len(text)), tokens)]
        while waiting:
            spans = []
            for each in waiting:
                begin, end = each.span or (0, 0)
                if end - begin <= 1:
                    return []
                most = max(1, int((end - begin) * limit * CHUNK_FILL / each.tokens))
                spans += [(begin + start, begin + stop) for start, stop in split_spans(each.text, most)]
            counts = await self._count_tokens(embedder, [text[begin:end] for begin, end in spans])
            cut = [_Piece(text[slice(*span)], span, count) for span, count in zip(spans, counts, strict=True)]
            chunks += [each for each in cut if each.tokens <= limit]
            waiting = [each for each in cut if each.tokens > limit]
        return sorted(chunks, key=lambda each: each.span or (0, 0))

    async def _count_tokens(self, embedder: Embedder, texts: Sequence[str]) -> list[int]:
        return await self._repeat(embedder, lambda: embedder.count_tokens(texts))

    async def _embed(self, embedder: Embedder, part: Sequence[str]) -> list[Vector]:
        found = np.asarray(await embedder.embed_documents(part), dtype=np.float32)
        if found.ndim == 0 or len(found) != len(part):
            message = f"{embedder.signature} returned an array of shape {list(found.shape)} for {len(part)} texts"
            raise InvalidVectorError(message)
        self._counts["embedded"] += len(part)
        return [as_vector(each, embedder.signature.dimensions) for each in found]

    async def _repeat(self, embedder: Embedder, call: Callable[[], Awaitable[T]]) -> T:
        """Call the model, and again where it failed for a while, until the deadline.

        The pause is drawn between nothing and a bound that doubles ("full jitter", see `pattern_core.sessions.retry`), but is
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
        found = await self._cache.get(embedder.signature, kind, texts)
        self._counts["from_cache"] += len(found)
        return {text: as_vector(vector, embedder.signature.dimensions) for text, vector in found.items()}

    async def _keep(self, embedder: Embedder, kind: str, vectors: dict[str, Vector]) -> None:
        if self._cache is not None:
            await self._cache.put(embedder.signature, kind, vectors)


class _Tally:
    """Counts the texts that are done, each as often as it was given, while its pieces come in."""

    def __init__(self, pieces: Mapping[str, Collection[str]], counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._missing = {text: len(parts) for text, parts in pieces.items()}
        self._owners: dict[str, list[str]] = {}
        for text, parts in pieces.items():
            for piece in parts:
                self._owners.setdefault(piece, []).append(text)

    def finish(self, pieces: Iterable[str]) -> int:
        """Take pieces for done, each once, and return how many texts are done by that."""
        done = 0
        for piece in pieces:
            for text in self._owners.get(piece, ()):
                self._missing[text] -= 1
                done += 0 if self._missing[text] else self._counts[text]
        return done


def _pack(texts: Sequence[_Piece], embedder: Embedder) -> list[list[_Piece]]:
    """Divide texts into batches that the model takes, by number and by tokens; a text too large gets its own."""
    parts: list[list[_Piece]] = []
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

"""The embedding model of a database: loaded on first use, with its vectors checked and cached."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

from pattern_core.abc import Detail, Embedder, Health, Signature, Vector
from pattern_core.config import EmbeddingPolicy
from pattern_core.errors import ClosedError, InvalidVectorError, SignatureMismatchError, ValidationError
from pattern_core.support.validators import as_vector, check_text

from .batching import TextCounter, pack, run_concurrently
from .cache import VectorCache
from .calls import Calls
from .fitting import Piece, TextVectors, fit_texts, truncate

__all__ = ["EmbeddingModel"]

T = TypeVar("T")

_SPECIAL_TOKENS: Final = 16
"""More tokens than a tokenizer adds around a text."""


def _ignore(_count: int) -> None: ...


class EmbeddingModel:
    """The embedding model of a database, loaded on first use.

    Args:
        load: Opens the embedder.
        policy: How texts are embedded.
        cache: Keeps vectors between runs; None for no cache.
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
        self._calls = Calls(self._policy.deadline)
        self._embedder: Embedder | None = None
        self._loading = asyncio.Lock()
        self._required: Signature | None = None
        self._counts = {"embedded": 0, "from_cache": 0}
        self._closed = False
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def loaded(self) -> Embedder | None:
        """The embedder; None until it is loaded."""
        return self._embedder

    @property
    def embedded(self) -> int:
        """How many texts the model has embedded; texts found in the cache do not count."""
        return self._counts["embedded"]

    @property
    def policy(self) -> EmbeddingPolicy:
        """How texts are embedded."""
        return self._policy

    async def signature(self) -> Signature:
        """Load the model if necessary, and return its signature."""
        return (await self._ready()).signature

    def require(self, stored: Signature) -> None:
        """Require the signature of a database's vectors.

        Args:
            stored: The signature of the stored vectors.

        Raises:
            SignatureMismatchError: The loaded model has another signature. A model that is loaded later is checked then.
        """
        self._required = stored
        if self._embedder is not None:
            self._check(self._embedder)

    def replace_requirement(self, stored: Signature) -> None:
        """Require another signature from the next use on, since the database's vectors have changed.

        Args:
            stored: The signature of the stored vectors.
        """
        self._required = stored

    async def embed_documents(
        self, texts: Sequence[str], *, progress: Callable[[int], None] = _ignore, cached: bool = True
    ) -> list[TextVectors]:
        """Embed texts to be found later. Repeated and cached texts are embedded once.

        As many batches are embedded at a time as the embedder allows. A batch that fails with a transient error is
        retried until the deadline. Finished batches are in the cache, so that another call continues from there.

        Args:
            texts: The texts, none of them blank.
            progress: Called with the number of texts finished since the last call.
            cached: Whether to use the cache.

        Returns:
            For each text its vectors.

        Raises:
            TextTooLongError: A text is over the model's token limit, and ``overflow`` is ``error``.
            SignatureMismatchError: Another model made the database's vectors.
            EmbeddingError: The model failed, or returned unusable vectors.
        """
        if not texts:
            return []
        with self._in_use():
            return await self._embed_documents(texts, progress, cached=cached)

    async def _embed_documents(
        self, texts: Sequence[str], progress: Callable[[int], None], *, cached: bool
    ) -> list[TextVectors]:
        embedder = await self._ready()
        counts = Counter(texts)
        vectors = await self._look_up(embedder, "document", list(counts)) if cached else {}
        pieces = {text: [Piece(text)] for text in vectors}
        pieces |= await self._fit(embedder, [text for text in counts if text not in vectors], texts)
        distinct = {piece.text: piece for parts in pieces.values() for piece in parts}
        if cached:
            vectors |= await self._look_up(embedder, "document", [text for text in distinct if text not in counts])
        counter = TextCounter({text: {piece.text for piece in parts} for text, parts in pieces.items()}, counts)
        progress(counter.finish(vectors))

        async def embed(batch: Sequence[Piece]) -> None:
            made = await self._call(embedder, lambda: self._embed(embedder, [each.text for each in batch]))
            found = {each.text: vector for each, vector in zip(batch, made, strict=True)}
            vectors.update(found)
            await self._keep(embedder, "document", found)
            progress(counter.finish(found))

        missing = [piece for piece in distinct.values() if piece.text not in vectors]
        await run_concurrently(pack(missing, embedder), embed, embedder.concurrency)
        return [
            TextVectors(tuple(vectors[each.text] for each in pieces[text]), tuple(each.span for each in pieces[text]))
            for text in texts
        ]

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Count the tokens of each text.

        Args:
            texts: The texts.

        Returns:
            The counts; None if the model has no limit and counts none.
        """
        embedder = await self._ready()
        if embedder.signature.max_tokens is None and embedder.max_batch_tokens is None:
            return None
        return await self._count_tokens(embedder, texts)

    async def embed_query(self, text: str) -> Vector:
        """Embed a text to search for.

        Args:
            text: The text, not blank. It is truncated to the model's token limit.

        Returns:
            A read-only float32 array, shape ``[dimensions]``.

        Raises:
            ValidationError: The text is blank.
            SignatureMismatchError: Another model made the database's vectors.
            EmbeddingError: The model failed, or returned unusable vectors.
        """
        if not check_text(text, "search", "text").strip():
            raise ValidationError("the text to search for is blank", where="search", field="text")
        with self._in_use():
            embedder = await self._ready()
            known = await self._look_up(embedder, "query", [text])
            if text not in known:
                read = await self._truncate_query(embedder, text)
                vector = await self._call(embedder, lambda: embedder.embed_query(read))
                known = {text: as_vector(vector, embedder.signature.dimensions)}
                self._counts["embedded"] += 1
                await self._keep(embedder, "query", known)
            return known[text]

    async def health(self) -> Health:
        """Report which model is loaded, without loading one."""
        if self._embedder is None:
            expected = str(self._required) if self._required else "not known yet"
            return Health(ok=True, engine=expected, details={"loaded": False})
        signature = self._embedder.signature
        details: dict[str, Detail] = {"loaded": True, "dimensions": signature.dimensions, **self._counts}
        return Health(ok=True, engine=f"{signature.provider} {signature.model}", details=details)

    async def close_when_idle(self) -> None:
        """Close the model when its running calls have ended."""
        await self._idle.wait()
        await self.aclose()

    async def aclose(self) -> None:
        """Close the model. A second call does nothing."""
        async with self._loading:  # a model that is being loaded is closed as well
            self._closed = True
            embedder, self._embedder = self._embedder, None
            if self._cache is not None:
                await self._cache.aclose()
            if embedder is not None:
                await embedder.aclose()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

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
            self._check(self._embedder)  # the requirement may have changed since it was loaded
            return self._embedder

    def _check(self, embedder: Embedder) -> None:
        if self._required is not None and embedder.signature != self._required:
            raise SignatureMismatchError(str(self._required), str(embedder.signature))

    async def _fit(self, embedder: Embedder, distinct: Sequence[str], texts: Sequence[str]) -> dict[str, list[Piece]]:
        limit = embedder.signature.max_tokens
        if not distinct or (limit is None and embedder.max_batch_tokens is None):
            return {text: [Piece(text)] for text in distinct}

        async def count(part: Sequence[str]) -> list[int]:
            return await self._count_tokens(embedder, part)

        return await fit_texts(distinct, texts, count, limit, self._policy.overflow)

    async def _truncate_query(self, embedder: Embedder, text: str) -> str:
        limit, prompt = embedder.signature.max_tokens, embedder.signature.query_prompt
        # A token stands for at least a byte, so most queries need no count.
        if limit is None or len(f"{prompt}{text}".encode()) + _SPECIAL_TOKENS <= limit:
            return text

        async def count(part: Sequence[str]) -> list[int]:
            return await self._count_tokens(embedder, [prompt + each for each in part])

        (tokens,) = await count([text])
        return (await truncate(text, count, limit, tokens)).text

    async def _count_tokens(self, embedder: Embedder, texts: Sequence[str]) -> list[int]:
        return await self._call(embedder, lambda: embedder.count_tokens(texts))

    async def _call(self, embedder: Embedder, work: Callable[[], Awaitable[T]]) -> T:
        return await self._calls.call(embedder.signature, work)

    async def _embed(self, embedder: Embedder, batch: Sequence[str]) -> list[Vector]:
        found = np.asarray(await embedder.embed_documents(batch), dtype=np.float32)
        if found.ndim == 0 or len(found) != len(batch):
            message = f"{embedder.signature} returned an array of shape {list(found.shape)} for {len(batch)} texts"
            raise InvalidVectorError(message)
        self._counts["embedded"] += len(batch)
        return [as_vector(each, embedder.signature.dimensions) for each in found]

    async def _look_up(self, embedder: Embedder, kind: str, texts: Sequence[str]) -> dict[str, Vector]:
        if self._cache is None:
            return {}
        found = await self._cache.get(embedder.signature, kind, texts)
        self._counts["from_cache"] += len(found)
        return {text: as_vector(vector, embedder.signature.dimensions) for text, vector in found.items()}

    async def _keep(self, embedder: Embedder, kind: str, vectors: dict[str, Vector]) -> None:
        if self._cache is not None:
            await self._cache.put(embedder.signature, kind, vectors)

"""A session in which every edit is its own commit."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from pattern_core.abc import CheckNone, Row, Storage, VectorStore, Write
from pattern_core.catalog.metadata import Generation, Metadata
from pattern_core.embedding.chunks import EmbeddedText
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ClosedError, ModelChangedError
from pattern_core.filters import Filter
from pattern_core.models import Embedding
from pattern_core.schema import Order, Table
from pattern_core.search.indexer import IndexChange

from .active_model import ActiveModel
from .commits import Commits
from .edits import Edit
from .retry import retry_on_conflict
from .searching import read_embeddings, search_rows
from .session import Query, RowHit, Session

__all__ = ["DirectSession"]

ATTEMPTS: Final = 50
"""How often a single call is tried if others change the same record at the same time."""
MODEL_CHANGES: Final = 10
"""How often a call is repeated because the embedding model changed meanwhile."""

T = TypeVar("T")


class DirectSession(Session):
    """A session in which every edit is its own commit.

    Args:
        storage: The storage.
        vectors: The vector search.
        embeddings: The embedding model of the active generation.
        metadata: The database metadata.
        metric: The metric of the vector search.
        shared: Whether other processes may have the database open.

    Attributes:
        storage: The storage.
        vectors: The vector search.
        metric: The metric of the vector search.
        model: The active generation and its model.
        retry_lock: Held by those who retry, so that many do not defeat each other.
        exclusive: Holds back all other commits; see `Commits.exclusive`.
    """

    def __init__(
        self,
        storage: Storage,
        vectors: VectorStore,
        embeddings: EmbeddingModel,
        metadata: Metadata,
        *,
        metric: str,
        shared: bool = True,
    ) -> None:
        self.storage = storage
        self.vectors = vectors
        self.metric = metric
        self.model = ActiveModel(storage, vectors, embeddings, metadata, metric=metric)
        self.retry_lock = asyncio.Lock()
        self._commits = Commits(storage, vectors, self.model, shared=shared)
        self.exclusive = self._commits.exclusive
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False

    @property
    def embeddings(self) -> EmbeddingModel:
        return self.model.embeddings

    @property
    def generation(self) -> int:
        return self.active.number

    @property
    def active(self) -> Generation:
        """The active generation, as far as this session knows."""
        return self.model.generation

    async def get(self, table: Table, ids: Sequence[str]) -> list[Row | None]:
        self._check_open()
        return await self.storage.get(table, ids)

    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Row]:
        self._check_open()
        return await self.storage.find(table, where, order=order, limit=limit)

    async def count(self, table: Table, where: Filter | None = None) -> int:
        self._check_open()
        return await self.storage.count(table, where)

    async def retry(self, work: Callable[[], Awaitable[T]]) -> T:
        return await retry_on_conflict(work, attempts=ATTEMPTS, lock=self.retry_lock)

    async def retry_on_model_change(self, work: Callable[[], Awaitable[T]]) -> T:
        for _ in range(MODEL_CHANGES):
            with contextlib.suppress(ModelChangedError):
                return await work()
        return await work()

    def lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    async def embed(self, texts: Sequence[str]) -> list[EmbeddedText]:
        return await self.model.embed(texts)

    async def embed_query(self, text: str) -> Query:
        return await self.model.embed_query(text)

    async def read_embeddings(self, table: Table, ids: Sequence[str]) -> dict[str, Embedding]:
        await self._refresh()
        return await read_embeddings(self.storage, self.active, table, ids)

    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        own = [edit for edit in edits if isinstance(edit, Edit)]
        await self.commit([edit.write() if isinstance(edit, Edit) else edit for edit in edits], own)
        return [edit.after for edit in own if edit.after is not None]

    async def commit(
        self, batch: Sequence[Write], edits: Sequence[Edit] = (), changes: Sequence[IndexChange] = ()
    ) -> None:
        """Commit a batch; see `Commits.commit`."""
        self._check_open()
        await self._commits.commit(batch, edits, changes)

    async def catch_up(self) -> None:
        """Return when the index holds everything that is acknowledged; only an external index may be behind."""
        await self._commits.catch_up()

    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[RowHit]:
        await self._refresh()
        active = self.active
        if query.generation != active.number:
            raise ModelChangedError(query.generation)
        await self.catch_up()
        return await search_rows(
            self.storage, self.vectors, active, table, query, partitions=partitions, limit=limit, where=where
        )

    async def aclose(self) -> None:
        """Wait for running commits, and refuse further ones. Storage, vector search and model belong to the caller."""
        self._closed = True
        await self._commits.aclose()
        await self.model.aclose()

    async def _refresh(self) -> None:
        self._check_open()
        await self._commits.follow()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database is closed. Open it again with pattern_core.open(…).")

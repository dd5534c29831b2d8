"""What the repositories work on: reads, edits and searches of one database."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

import attrs
import numpy as np

from .abc import CheckNone, Matches, Row, Storage, Vector, VectorStore, Write
from .edits import Edit, Mirror
from .embedding import Embeddings
from .errors import ClosedError, ConflictError, StorageError
from .filters import Field, Filter, matches
from .indexing import Change, indexer_for
from .metadata import Generation, Metadata, fence, read_metadata
from .models import Embedding
from .parts import Parts, embed_parts, hash_text, part_id, part_ids, record_of
from .retry import repeat
from .schema import Order, Table, vectors_of

__all__ = ["Direct", "Found", "Query", "Session"]

FIRST_SEARCH: Final = 4
"""How many times the wanted number a filtered search asks the index for, before it asks the storage which ids fit."""
WIDER: Final = 4
"""How many times as many vectors are asked for where several belonged to one record."""

ATTEMPTS: Final = 50
"""How often a single call is repeated where others change the same record at the same time."""

T = TypeVar("T")


@attrs.frozen
class Found:
    """A row that a search found.

    Attributes:
        row: The row.
        score: How close it is.
        exact: Whether every candidate was compared.
        passage: The part of its text that is close, where it was cut into chunks.
    """

    row: Row
    score: float
    exact: bool
    passage: str | None = None


@attrs.frozen
class Query:
    """What to look for.

    Attributes:
        vector: A float32 array, shape ``[dimensions]``.
        generation: The generation whose model has made it, and whose vectors it can be compared with.
    """

    vector: Vector
    generation: int


class Session(ABC):
    """Reads, edits and searches of one database."""

    @property
    @abstractmethod
    def embeddings(self) -> Embeddings:
        """The embedding model."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """The number of the generation that the model makes vectors for."""

    @abstractmethod
    async def repeat(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work, and again where it met a conflict that another attempt may not meet."""

    @abstractmethod
    def turn(self, key: str) -> contextlib.AbstractAsyncContextManager[object]:
        """Make those who name the same key wait for each other, as long as they are in this process."""

    @abstractmethod
    async def get(self, table: Table, ids: Sequence[str]) -> list[Row | None]:
        """Read records by id, as `Storage.get` does."""

    @abstractmethod
    async def find(
        self,
        table: Table,
        where: Filter | None = None,
        *,
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Row]:
        """Read the records that satisfy a filter, as `Storage.find` does."""

    @abstractmethod
    async def count(self, table: Table, where: Filter | None = None) -> int:
        """Count the records that satisfy a filter."""

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> list[Parts]:
        """Embed the texts of records, for `Edit.parts`; a blank one has no vectors."""

    @abstractmethod
    async def query(self, text: str) -> Query:
        """Embed a text to find others by."""

    @abstractmethod
    async def embedding_of(self, table: Table, id: str) -> Embedding | None:
        """Read the vectors of a record; None where it has none."""

    @abstractmethod
    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        """Carry out edits, all or none, and return the records that they leave, in order."""

    @abstractmethod
    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        """Find the closest records of some partitions that satisfy a filter, closest first, ties by id.

        Raises:
            ConflictError: Another generation has become the active one since the query was made.
        """


class Direct(Session):
    """A session in which every edit is its own commit.

    Args:
        storage: The storage.
        vectors: The vector search.
        embeddings: The embedding model of the active generation.
        known: What the database says of itself.
        metric: How vectors are compared.
        shared: Whether other processes may have the database open as well.
    """

    def __init__(
        self,
        storage: Storage,
        vectors: VectorStore,
        embeddings: Embeddings,
        known: Metadata,
        *,
        metric: str,
        shared: bool = True,
    ) -> None:
        self.metric = metric
        self.storage = storage
        self.vectors = vectors
        self.known = known
        self.retries = asyncio.Lock()
        self._embeddings = embeddings
        self._shared = shared
        self._foreign_commits: int | None = None
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._commits: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()
        self._indexer = indexer_for(storage, vectors, shared=shared)
        self._closed = False

    @property
    def embeddings(self) -> Embeddings:
        return self._embeddings

    @property
    def generation(self) -> int:
        return self.active.number

    @property
    def active(self) -> Generation:
        """The generation that is searched, as far as this session knows."""
        found = self.known.active
        if found is None:
            raise StorageError("the database is not set up: it has no generation of vectors. Open it with open(…).")
        return found

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

    async def repeat(self, work: Callable[[], Awaitable[T]]) -> T:
        return await repeat(work, attempts=ATTEMPTS, turn=self.retries)

    def turn(self, key: str) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())

    async def embed(self, texts: Sequence[str]) -> list[Parts]:
        return await embed_parts(self._embeddings, self.active.number, texts)

    async def query(self, text: str) -> Query:
        number, embeddings = self.active.number, self._embeddings
        return Query(await embeddings.query(text), number)

    async def embedding_of(self, table: Table, id: str) -> Embedding | None:
        await self._refresh()
        vectors = vectors_of(table, self.active.number)
        heads = await self.storage.get(vectors, [part_id(id, 0), part_id(id, 1)])
        rows = await self.storage.get(vectors, part_ids([id], heads), vectors=True)
        found = [row for row in rows if row is not None]
        if not found:
            return None
        spans = tuple(None if row["ends_at"] is None else (row["begins_at"], row["ends_at"]) for row in found)
        model, digest = self.active.signature.model, found[0]["signature"]
        return Embedding(np.stack([row["embedding"] for row in found]), spans, model=model, signature=digest)

    async def edit(self, edits: Sequence[Edit | CheckNone]) -> list[Row]:
        own = [edit for edit in edits if isinstance(edit, Edit)]
        await self.commit([edit.write() if isinstance(edit, Edit) else edit for edit in edits], own)
        return [edit.after for edit in own if edit.after is not None]

    async def commit(self, batch: Sequence[Write], edits: Iterable[Edit] = (), changes: Sequence[Change] = ()) -> None:
        """Commit a batch, also when the caller is cancelled meanwhile.

        Args:
            batch: The writes.
            edits: What the writes do to records; their vectors are written along with them.
            changes: What the index has to hold from then on, besides.

        Raises:
            ConflictError: As `Storage.commit`; or another generation has become the active one since texts were embedded.
        """
        self._check_open()
        await self._uncut(self._commit(batch, Mirror(edits), changes))

    async def _write(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        await self._uncut(self._indexer.commit(batch, changes))

    async def _uncut(self, work: Coroutine[Any, Any, None]) -> None:
        """Await what goes on to its end when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        await asyncio.shield(task)

    async def _commit(self, batch: Sequence[Write], mirror: Mirror, changes: Sequence[Change]) -> None:
        async with self._order:  # two commits of one record must reach the index in the order of the storage
            while True:
                known = self.known
                writes, found = await mirror.writes(self.storage, known)
                guard = [fence(known)] if writes else []
                try:
                    await self._indexer.commit([*guard, *batch, *writes], [*found, *changes])
                except ConflictError as error:
                    if not guard or error.table != guard[0].table.name:
                        raise
                    await self.reload()
                    if self.known.revision == known.revision:  # it was not the fence that refused
                        raise
                else:
                    return

    async def reload(self) -> None:
        """Read anew what the database says of itself.

        Raises:
            SignatureMismatchError: Another model makes its vectors by now.
            StorageError: Another index is told of all changes by now, which would not learn of this session's.
        """
        known = await read_metadata(self.storage)
        active = known.active
        if active is not None and active.number != self.active.number:
            self._embeddings.expect(active.signature)
        if active is not None and active.index_since != self.active.index_since:
            raise StorageError(
                f"another process has opened this database with another vector search ({active.index or 'its own'}), which "
                f"does not learn of this one's writes, nor the other way round. Nothing was written. Configure the same "
                f"[vectors] everywhere, and open it again."
            )
        self.known = known

    def adopt(self, known: Metadata, embeddings: Embeddings) -> Embeddings:
        """Go on with another generation and its model; return the model before."""
        before, self._embeddings = self._embeddings, embeddings
        self.known = known
        return before

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[Callable[[Sequence[Write], Sequence[Change]], Awaitable[None]]]:
        """Hold back all other commits of this session.

        Yields:
            What commits a batch meanwhile, and tells the index of changes.
        """
        async with self._order:
            yield self._write

    async def _refresh(self) -> None:
        """Learn of another active generation, where other processes may have made one."""
        self._check_open()
        if not self._shared:
            return
        commits = await self.storage.foreign_commits()
        if commits != self._foreign_commits:
            await self.reload()
            self._foreign_commits = commits

    async def catch_up(self) -> None:
        """Return when the index holds everything that is acknowledged; only an external one may be behind."""
        await self._indexer.catch_up(self._order)

    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        await self._refresh()
        if query.generation != self.active.number:
            raise ConflictError("system_metadata", "main", self.known.revision)
        await self.catch_up()
        vectors = vectors_of(table, query.generation)
        wanted = limit if where is None else limit * FIRST_SEARCH
        ids: list[str] | None = None
        while True:
            found = await self.vectors.search(vectors, query.vector, partitions=partitions, limit=wanted, ids=ids)
            hits = await self._fetch(table, vectors, found, partitions, where)
            if len(hits) >= limit or len(found.ids) < wanted:
                return hits[:limit]
            if where is not None and ids is None:
                # The filter took away too much: ask the storage which records fit, and rank just those.
                ids = await self._fitting(table, vectors, partitions, where)
                wanted = limit
            else:  # some vectors were of one record, or of records that have gone since
                wanted *= WIDER

    async def _fitting(self, table: Table, vectors: Table, partitions: Sequence[str], where: Filter) -> list[str]:
        """Return the ids of the vectors of the records that satisfy a filter."""
        scope = Field(str(table.partition)).in_(partitions)
        records = await self._ids(table, scope & where)
        fitting = [part_id(id, 0) for id in records]
        if self.active.has_chunks:
            chunks = await self._ids(vectors, Field("partition").in_(partitions) & (Field("part") > 0))
            known = set(records)
            fitting += [each for each in chunks if record_of(each) in known]
        return fitting

    async def _ids(self, table: Table, where: Filter) -> list[str]:
        ids: list[str] = []
        async for batch in self.storage.scan(table, where, columns=["id"]):
            ids += batch.column("id").to_pylist()
        return ids

    async def _fetch(
        self, table: Table, vectors: Table, found: Matches, partitions: Sequence[str], where: Filter | None
    ) -> list[Found]:
        best: dict[str, tuple[str, float]] = {}  # a record counts by the closest of its vectors
        for id, score in zip(found.ids, found.scores, strict=True):
            best.setdefault(record_of(id), (id, score))
        rows = await self.storage.get(table, list(best)) if best else []
        scope = set(partitions)
        # The index only proposes: what a caller may see is decided by the record itself.
        seen = [
            (row, *best[row["id"]])
            for row in rows
            if row is not None and row[str(table.partition)] in scope and matches(where, row)
        ]
        chunks = [id for _, id, _ in seen if id != part_id(record_of(id), 0)]
        places = {row["id"]: row for row in await self.storage.get(vectors, chunks) if row} if chunks else {}
        return [Found(row, score, found.exact, _passage(table, row, places.get(id))) for row, id, score in seen]

    async def aclose(self) -> None:
        """Wait for the commits that are under way, and refuse further ones."""
        self._closed = True
        if self._commits:
            await asyncio.wait(self._commits)
        await self._indexer.finish()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database is closed. Open it again with pattern_core.open(…).")


def _passage(table: Table, row: Row, part: Row | None) -> str | None:
    if part is None or part["text_hash"] != hash_text(text := table.text(row)):
        return None
    return text[part["begins_at"] : part["ends_at"]]

"""What the repositories work on: reads, edits and searches of one database."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import attrs
import numpy as np

from pattern_core.abc import CheckNone, Matches, Patch, Row, Storage, Vector, VectorStore, Write
from pattern_core.catalog.metadata import Generation, Metadata, fence, read_metadata, read_revision, specs_of
from pattern_core.catalog.tables import vectors_of
from pattern_core.embedding.chunks import Parts, embed_parts, hash_text, part_id, part_ids, record_of
from pattern_core.embedding.model import Embeddings
from pattern_core.errors import ClosedError, ConflictError, ModelChangedError, SignatureMismatchError, StorageError
from pattern_core.filters import Field, Filter, matches
from pattern_core.models import Embedding
from pattern_core.schema import Order, Table
from pattern_core.search.indexing import Change, indexer_for
from pattern_core.support.clock import utc_now

from .edits import Edit, Mirror
from .retry import repeat

__all__ = ["Direct", "Found", "Query", "Session"]

FIRST_SEARCH: Final = 4
"""How many times the wanted number a filtered search asks the index for, before it asks the storage which ids fit."""
WIDER: Final = 4
"""How many times as many vectors are asked for where several belonged to one record."""

ATTEMPTS: Final = 50
"""How often a single call is repeated where others change the same record at the same time."""

MODEL_CHANGES: Final = 10
"""How often a call is repeated because the embedding model changed in the midst of it."""
LONGEST_HOLD_S: Final = 15.0
"""How long a write waits at most for one who is about to switch to another model, whatever his clock says, in seconds."""
HOLD_LOOK_S: Final = 0.05

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
    async def steady(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work, and again where the embedding model changed in the midst of it; whatever else goes wrong is raised."""

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
            ModelChangedError: Another generation has become the active one since the query was made.
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
        self._heir: tuple[int, Embeddings] | None = None
        self._outlived: list[asyncio.Task[None]] = []
        self._waited_for: datetime | None = None
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
        return self.known.in_use

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

    async def steady(self, work: Callable[[], Awaitable[T]]) -> T:
        for _ in range(MODEL_CHANGES):
            with contextlib.suppress(ModelChangedError):
                return await work()
        return await work()

    def turn(self, key: str) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())

    async def embed(self, texts: Sequence[str]) -> list[Parts]:
        with self._model() as (model, number):
            return await embed_parts(model, number, texts)

    async def query(self, text: str) -> Query:
        with self._model() as (model, number):
            return Query(await model.query(text), number)

    @contextlib.contextmanager
    def _model(self) -> Iterator[tuple[Embeddings, int]]:
        """Yield the model and its generation; that another one took over here meanwhile is told from other failures."""
        model, number = self._embeddings, self.active.number
        try:
            yield model, number
        except (ClosedError, SignatureMismatchError) as error:
            if model is self._embeddings:
                raise
            raise ModelChangedError(number) from error

    async def embedding_of(self, table: Table, id: str) -> Embedding | None:
        await self._refresh()
        return (await self.embeddings_of(table, [id])).get(id)

    async def embeddings_of(self, table: Table, ids: Sequence[str]) -> dict[str, Embedding]:
        """Read the vectors of records, for those that have any."""
        active = self.active
        vectors = vectors_of(table, active.number)
        heads = await self.storage.get(vectors, [part_id(id, part) for id in ids for part in (0, 1)])
        found: dict[str, list[Row]] = {}
        for row in await self.storage.get(vectors, part_ids(ids, heads), vectors=True):
            if row is not None:
                found.setdefault(record_of(row["id"]), []).append(row)
        return {id: _embedding(rows, active.signature.model) for id, rows in found.items()}

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
        while True:
            async with self._order:  # two commits of one record must reach the index in the order of the storage
                held_until = await self._try_to_commit(batch, mirror, changes)
            if held_until is None:
                return
            await self._wait(held_until)  # without the turn, which he who is waited for may need

    async def _try_to_commit(
        self, batch: Sequence[Write], mirror: Mirror, changes: Sequence[Change]
    ) -> datetime | None:
        """Commit; or return until when it has to wait for one who is about to switch to another model."""
        while True:
            known = self.known
            writes, found = await mirror.writes(self.storage, known)
            guard = [fence(known)] if writes else []
            held_until = None if known.building is None else known.building.held_until
            if guard and held_until not in (None, self._waited_for):
                return held_until
            try:
                await self._indexer.commit([*guard, *batch, *writes], [*found, *changes])
            except ConflictError as error:
                if not guard or error.table != guard[0].table.name:
                    raise
                await self.reload()
                if self.known.revision == known.revision:  # it was not the fence that refused
                    raise
            else:
                if any(isinstance(write, Patch) and write.table.name == guard[0].table.name for write in writes):
                    await self.reload()  # what the database says of itself is another thing now
                return None

    async def _wait(self, held_until: datetime) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + LONGEST_HOLD_S
        while utc_now() < held_until and clock() < deadline:
            building = self.known.building
            if building is None or building.held_until != held_until:
                return
            await asyncio.sleep(HOLD_LOOK_S)
            await self.reload()
        self._waited_for = held_until  # it did not come to it

    async def reload(self) -> None:
        """Read anew what the database says of itself. From then on a model is refused that is not its own.

        Raises:
            StorageError: Another index is told of all changes by now, which would not learn of this session's.
        """
        known = await read_metadata(self.storage)
        if known.in_use.index_since != self.active.index_since:
            raise StorageError(
                f"another process has opened this database with another vector search ({known.in_use.index or 'its own'}), "
                f"which does not learn of this one's writes, nor the other way round. Nothing was written. Configure the "
                f"same [vectors] everywhere, and open it again."
            )
        if known.in_use.number != self.active.number:
            for spec in specs_of(known, self.metric):  # what is deleted here has to go from there
                await self.vectors.create(spec)
        self.known = known
        if self._heir is None or self._heir[0] != known.in_use.number:
            self._embeddings.follow(known.in_use.signature)
        elif self._embeddings is not self._heir[1]:
            before, self._embeddings = self._embeddings, self._heir[1]
            self._outlived.append(asyncio.create_task(before.retire()))

    @property
    def is_outdated(self) -> bool:
        """Whether the model is not that of the generation that is searched: another process has changed that."""
        embedder = self._embeddings.loaded
        return embedder is not None and embedder.signature != self.active.signature

    async def switch(self, number: int, model: Embeddings, work: Callable[[], Awaitable[None]]) -> None:
        """Do what makes another generation the active one, and go on with its model from that moment on.

        The model before is let go of when nobody is at it.

        Args:
            number: The number of the generation.
            model: Its model.
            work: What makes it the active one; it may have done so even where it fails.
        """
        self._heir = (number, model)  # others may learn of it before this does
        try:
            await work()
        finally:
            await self.reload()
            self._heir = None

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
            if await read_revision(self.storage) != self.known.revision:
                await self.reload()
            self._foreign_commits = commits

    async def catch_up(self) -> None:
        """Return when the index holds everything that is acknowledged; only an external one may be behind."""
        await self._indexer.catch_up(self._order)

    async def search(
        self, table: Table, query: Query, *, partitions: Sequence[str], limit: int, where: Filter | None
    ) -> list[Found]:
        await self._refresh()
        active = self.active
        if query.generation != active.number:
            raise ModelChangedError(query.generation)
        await self.catch_up()
        vectors = vectors_of(table, active.number)
        # One more than wanted tells whether others are as close as the last.
        wanted = limit + 1 if where is None else limit * FIRST_SEARCH
        ids: list[str] | None = None
        while True:
            found = await self.vectors.search(vectors, query.vector, partitions=partitions, limit=wanted, ids=ids)
            hits = await self._fetch(table, vectors, found, partitions, where)
            if len(found.ids) < wanted or (len(hits) >= limit and hits[limit - 1].score > found.scores[-1]):
                return hits[:limit]
            if where is not None and ids is None and len(hits) < limit:
                # The filter took away too much: ask the storage which records fit, and rank just those.
                ids = await self._fitting(table, vectors, active, partitions, where)
                wanted = limit + 1
            else:  # some vectors were of one record, or of records that have gone since, or are equally close
                wanted *= WIDER

    async def _fitting(
        self, table: Table, vectors: Table, active: Generation, partitions: Sequence[str], where: Filter
    ) -> list[str]:
        """Return the ids of the vectors of the records that satisfy a filter."""
        scope = Field(str(table.partition)).in_(partitions)
        records = await self._ids(table, scope & where)
        fitting = [part_id(id, 0) for id in records]
        if active.has_chunks:
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
        seen.sort(key=lambda each: (-each[2], each[0]["id"]))  # ids of vectors need not sort as those of records
        chunks = [id for _, id, _ in seen if id != part_id(record_of(id), 0)]
        places = {row["id"]: row for row in await self.storage.get(vectors, chunks) if row} if chunks else {}
        return [Found(row, score, found.exact, _passage(table, row, places.get(id))) for row, id, score in seen]

    async def aclose(self) -> None:
        """Wait for the commits that are under way, and refuse further ones."""
        self._closed = True
        if self._commits:
            await asyncio.wait(self._commits)
        for task in self._outlived:
            task.cancel()
        await asyncio.gather(*self._outlived, return_exceptions=True)
        await self._indexer.finish()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database is closed. Open it again with pattern_core.open(…).")


def _embedding(rows: Sequence[Row], model: str) -> Embedding:
    spans = tuple(None if row["ends_at"] is None else (row["begins_at"], row["ends_at"]) for row in rows)
    return Embedding(np.stack([row["embedding"] for row in rows]), spans, model=model, signature=rows[0]["signature"])


def _passage(table: Table, row: Row, part: Row | None) -> str | None:
    if part is None or part["text_hash"] != hash_text(text := table.text(row)):
        return None
    return text[part["begins_at"] : part["ends_at"]]

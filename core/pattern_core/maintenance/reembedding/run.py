"""One run of a re-embedding: build a generation beside the active one, then switch to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

import attrs

from pattern_core.abc import CheckNone, Delete, IndexSpec, Row, Signature, Storage, Write
from pattern_core.catalog.metadata import (
    Generation,
    Metadata,
    index_specs,
    read_metadata,
    record_generation,
    record_schema_version,
    touch_metadata,
)
from pattern_core.catalog.tables import EMBEDDING_QUEUE, vector_table
from pattern_core.embedding.chunks import record_id_of
from pattern_core.embedding.model import EmbeddingModel
from pattern_core.errors import ConflictError, PatternError, ReembedError, StorageError, shorten
from pattern_core.filters import Field
from pattern_core.schema import EMBEDDED, TABLES, CreateTable, Table
from pattern_core.search.indexer import IndexChange
from pattern_core.sessions.direct import DirectSession
from pattern_core.support.cancellation import shielded
from pattern_core.support.clock import utc_now
from pattern_core.support.processes import may_be_alive, process_name

from .generations import clean_up, reusable
from .sync import Synchronizer, SyncPlan
from .verify import find_wrong_vectors, sample

__all__ = ["Progress", "ReembedRun", "read_ids"]

_BATCH: Final = 128
"""How many records are embedded and written at a time."""
_FEW: Final = 16
"""From this many queued records down, the run stops the writers of this process and switches."""
_ALIVE_S: Final = 60
"""A worker that reported within this time, in seconds, is considered alive."""
_HEARTBEAT_S: Final = 15.0
_PAUSE_AFTER: Final = 3
"""After this many failed attempts to switch, the run asks writers in other processes to wait."""
_PAUSE_S: Final = 10.0
"""How long they wait, and how long an attempt to switch may hold back writers of this process, in seconds."""
_ATTEMPTS: Final = 100
_ANY: Final = ~Field("id").is_null()
_FIRST_CHUNK: Final = Field("part") <= 1

Progress = Callable[[int, int], None]
"""Called with the number of finished records, and the number of all."""


class ReembedRun:
    """One run that builds a generation.

    Args:
        session: The open database.
        target: The model of the generation.
        signature: Its signature.
        progress: Called while records are embedded.

    Attributes:
        generation: The generation.
        embedded: How many records were embedded.
    """

    def __init__(
        self, session: DirectSession, target: EmbeddingModel, signature: Signature, progress: Progress
    ) -> None:
        self.generation = Generation(number=0, signature=signature, state="building")
        self.embedded = 0
        self._session = session
        self._storage = session.storage
        self._target = target
        self._progress = progress
        self._indexed: set[str] = set()
        self._lock = asyncio.Lock()

    async def begin(self, *, again: bool, take_over: bool) -> bool:
        """Begin the generation, or continue an interrupted run.

        Args:
            again: Whether to begin a generation even if the model is that of the active one.
            take_over: Whether to continue the run of another process that may still be alive.

        Returns:
            Whether there is something to do.

        Raises:
            ReembedError: A generation of another model is half built, or another process builds it.
        """
        for _ in range(_ATTEMPTS):
            await clean_up(self._session)
            metadata = await read_metadata(self._storage)
            found, signature = metadata.building, self.generation.signature
            if found is None and metadata.in_use.signature == signature and not again:
                await self._session.model.reload()
                if self._session.model.is_outdated:  # active, but this session still has the previous model
                    await self._session.model.switch(metadata.in_use.number, self._target, _nothing)
                self.generation = metadata.in_use
                return False
            try:
                if found is None:
                    await self._create(metadata, again=again)
                else:
                    await self._claim(found, take_over=take_over)
            except ConflictError:
                continue  # another process was faster
            await self._session.model.reload()
            await self._prepare()
            return True
        raise ReembedError("other processes keep changing the generations of vectors. Nothing was done. Try again.")

    async def _create(self, metadata: Metadata, *, again: bool) -> None:
        reused = None if again else reusable(metadata, self.generation.signature)
        number = max((each.number for each in metadata.generations), default=0) + 1
        new = reused or attrs.evolve(self.generation, number=number)
        await self._put(new, touch_metadata(metadata))

    async def _claim(self, found: Generation, *, take_over: bool) -> None:
        if found.signature != self.generation.signature:
            raise ReembedError(
                f"the vectors of {found.signature} are half built, and {self.generation.signature} is configured. "
                f"Configure the first one and resume, or abandon its vectors: `pattern reembed rollback`."
            )
        seen = found.worker_seen_at
        if seen is not None and not take_over and found.worker != process_name() and may_be_alive(found.worker):
            ago = (utc_now() - seen).total_seconds()
            if ago < _ALIVE_S:
                raise ReembedError(
                    f"{found.worker} is building these vectors; it last reported {ago:.0f} seconds ago. If it has ended, "
                    f"take over: `pattern reembed resume`, or reembed(take_over=True)."
                )
        await self._put(found)

    async def _put(self, generation: Generation, *also: Write) -> None:
        """Record the generation as this process's work. It fails if the generation has changed since it was read."""
        mine = attrs.evolve(
            generation, state="building", held_until=None, worker=process_name(), worker_seen_at=utc_now()
        )
        await self._session.commit([record_generation(mine), *also])
        self.generation = attrs.evolve(mine, revision=mine.revision + 1)

    async def _prepare(self) -> None:
        """Create the tables, and find out which indexes already exist and have to follow every change."""
        for table in EMBEDDED:
            vectors = vector_table(table, self.generation.number)
            await self._storage.apply_schema(CreateTable(vectors, self.generation.signature.dimensions))
        for spec in await self._specs():
            if await self._session.vectors.exists(spec.table):
                await self._session.vectors.create(spec)
                self._indexed.add(spec.table.name)

    async def _specs(self) -> list[IndexSpec]:
        return index_specs(await read_metadata(self._storage), self._session.metric, self.generation)

    @property
    def _sync(self) -> Synchronizer:
        return Synchronizer(self._storage, self._target, self.generation.number, self.generation.signature)

    @contextlib.asynccontextmanager
    async def heartbeat(self) -> AsyncIterator[None]:
        """Report from time to time that this process is alive."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            with contextlib.suppress(PatternError):  # the run itself meets the same error
                await self._commit([])

    async def fill(self) -> None:
        """Give every record its vectors, and remove the vectors of deleted records."""
        total, done = sum([await self._storage.count(table) for table in EMBEDDED]), 0
        self._progress(done, total)
        for table in EMBEDDED:
            ids = await read_ids(self._storage, table)
            for batch in _batches(ids):
                await self._synchronize(table, batch)
                done += len(batch)
                self._progress(min(done, total), total)
            await self._remove_surplus(table, set(ids))

    async def _remove_surplus(self, table: Table, existing: set[str]) -> None:
        surplus: dict[str, None] = {}
        async for batch in self._storage.scan(vector_table(table, self.generation.number), columns=["id"]):
            surplus.update(
                (id, None) for each in batch.column("id").to_pylist() if (id := record_id_of(each)) not in existing
            )
        for ids in _batches(list(surplus)):
            await self._synchronize(table, ids)

    async def index(self) -> None:
        """Create the indexes of the generation."""
        for spec in await self._specs():
            await self._session.vectors.create(spec)
            self._indexed.add(spec.table.name)

    async def finish(self) -> None:
        """Embed the records that were written meanwhile, verify, and switch.

        Raises:
            ReembedError: The vectors do not verify, or other processes write without a pause.
        """
        await self._drain()
        await self.fill()  # looks at every record again, and has little to do
        await self._verify()
        for attempt in range(_ATTEMPTS):
            if self._session.generation == self.generation.number:  # the last attempt timed out, but succeeded
                return
            if attempt >= _PAUSE_AFTER:
                await self._pause_writers()
            await self._drain()
            try:
                async with asyncio.timeout(_PAUSE_S):
                    if await self._switch():
                        return
            except TimeoutError:
                continue
            except ConflictError:  # another process has written meanwhile
                await self._check_ownership()
            else:
                await self.fill()
        raise ReembedError(
            "other processes write texts without a pause, so the new vectors were never complete. Resume when there is "
            "less to do: `pattern reembed resume`."
        )

    async def _pause_writers(self) -> None:
        """Ask all writers to wait for a while."""
        metadata = await read_metadata(self._storage)
        async with self._lock:
            held = attrs.evolve(self.generation, held_until=utc_now() + timedelta(seconds=_PAUSE_S))
            with contextlib.suppress(ConflictError):
                await self._session.commit([touch_metadata(metadata), record_generation(held)])
                self.generation = attrs.evolve(held, revision=held.revision + 1)
        await self._session.model.reload()

    async def _drain(self) -> None:
        """Embed queued records until few are left; the queue need not become empty while others write."""
        for _ in range(_ATTEMPTS):
            entries = await self._storage.find(EMBEDDING_QUEUE, limit=_BATCH)
            for table, ids in _by_table(entries):
                await self._synchronize(table, ids)
            await self._session.commit([Delete(EMBEDDING_QUEUE, row["id"]) for row in entries])
            if len(entries) <= _FEW:
                return

    async def _synchronize(self, table: Table, ids: Sequence[str]) -> None:
        """Make the generation agree with some records."""
        try:
            plan = await self._plan(table, ids)
            if plan.writes:
                await self._commit(plan.writes, plan.changes)
        except StorageError:  # perhaps another process has abandoned the run, and its tables are gone
            await self._check_ownership()
            raise
        self.embedded += plan.embedded

    async def _plan(self, table: Table, ids: Sequence[str]) -> SyncPlan:
        plan = await self._sync.plan(table, ids)
        if plan.has_chunks:
            self.generation = attrs.evolve(self.generation, has_chunks=True)
        return plan

    async def _commit(self, writes: Sequence[Write], changes: Sequence[IndexChange] = ()) -> None:
        """Write, and report that this process is alive. It fails if another process has taken over."""
        async with self._lock:
            seen = attrs.evolve(self.generation, worker_seen_at=utc_now())
            indexed = [(table, change) for table, change in changes if table.name in self._indexed]
            try:
                await self._session.commit([record_generation(seen), *writes], changes=indexed)
            except ConflictError:
                await self._check_ownership()
                raise
            self.generation = attrs.evolve(seen, revision=seen.revision + 1)

    async def _check_ownership(self) -> None:
        found = (await read_metadata(self._storage)).building
        mine = self.generation
        if found is None or (found.number, found.revision) != (mine.number, mine.revision):
            raise ReembedError(
                f"another process has taken over this run, or has abandoned it: "
                f"{found.worker if found else 'no process builds these vectors now'}. Nothing is lost."
            )

    async def _verify(self) -> None:
        """Raise `ReembedError` unless a sample of the vectors is right; wrong ones are embedded once more first."""
        for table, spec in zip(EMBEDDED, await self._specs(), strict=True):
            wrong: Sequence[str] = sample(await read_ids(self._storage, table))
            if wrong := await self._find_wrong(table, spec.table, wrong):
                await self._synchronize(table, wrong)
                wrong = await self._find_wrong(table, spec.table, wrong)
            if wrong:
                raise ReembedError(
                    f"the new vector of {table.name} record {shorten(wrong[0])} differs from what "
                    f"{self.generation.signature} makes of its text now, or its index does not find it. Nothing was "
                    f"switched. Run it again."
                )

    async def _find_wrong(self, table: Table, vectors: Table, ids: Sequence[str]) -> list[str]:
        store = self._session.vectors
        return await find_wrong_vectors(self._storage, store, self._target, self._sync, table, vectors, ids)

    async def _switch(self) -> bool:
        """Embed the rest of the queue and make the generation active, all in one commit.

        Returns:
            Whether it was switched; False if the generation lacks records, or the queue has grown too long.

        Raises:
            ConflictError: Another process has written meanwhile.
        """
        async with self._lock, self._session.exclusive() as commit:
            metadata = await read_metadata(self._storage)
            entries = await self._storage.find(EMBEDDING_QUEUE, limit=_BATCH)
            writes: list[Write] = [Delete(EMBEDDING_QUEUE, row["id"]) for row in entries]
            changes: list[IndexChange] = []
            embedded = 0
            for table, ids in _by_table(entries):
                plan = await self._plan(table, ids)
                writes, changes, embedded = [*writes, *plan.writes], [*changes, *plan.changes], embedded + plan.embedded
            if not entries and not await self._is_complete(metadata.in_use):
                return False
            active = metadata.in_use
            new = attrs.evolve(
                self.generation,
                state="active",
                index=active.index,
                index_since=active.index_since,
                held_until=None,
                worker=None,
                worker_seen_at=None,
            )
            batch = [
                record_schema_version(metadata, metadata.schema_version, self.generation.signature),
                record_generation(new),
                record_generation(attrs.evolve(active, state="retired")),
                *writes,
                CheckNone(EMBEDDING_QUEUE, _ANY),
            ]

            # Shielded, so that the database and this session switch together.
            await shielded(self._session.model.switch(new.number, self._target, lambda: commit(batch, changes)))
            self.embedded += embedded
            return True

    async def _is_complete(self, active: Generation) -> bool:
        """Compare the numbers of records with vectors, old and new, while this process writes nothing else."""
        for table in EMBEDDED:
            new, old = (vector_table(table, each.number) for each in (self.generation, active))
            if await self._storage.count(new, _FIRST_CHUNK) < await self._storage.count(old, _FIRST_CHUNK):
                return False
        return True


async def read_ids(storage: Storage, table: Table) -> list[str]:
    """Read the ids of all records of a table.

    Args:
        storage: The storage.
        table: The table.

    Returns:
        The ids, sorted.
    """
    ids: list[str] = []
    async for batch in storage.scan(table, columns=["id"]):
        ids += batch.column("id").to_pylist()
    return ids


async def _nothing() -> None:
    """Do nothing: the generation is active already."""


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _by_table(entries: Iterable[Row]) -> Iterable[tuple[Table, list[str]]]:
    found: dict[str, dict[str, None]] = {}
    for row in entries:
        found.setdefault(row["record_table"], {})[row["record_id"]] = None
    return [(TABLES[name], list(ids)) for name, ids in found.items() if name in TABLES]

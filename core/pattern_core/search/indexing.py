"""Keep the vector index in agreement with the storage, commit by commit.

An index that lives in the storage or in this process is told after each commit (`InStep`). One that is kept in a place
of its own could be left behind by a crash between the two; so the commit itself also writes to an outbox which records
the index has yet to learn of (`Outbox`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import attrs

from pattern_core.abc import Delete, Insert, Row, Storage, VectorChange, VectorStore, Write
from pattern_core.catalog.tables import OUTBOX, table_named
from pattern_core.errors import PatternError, StorageError
from pattern_core.filters import Field
from pattern_core.schema import Table
from pattern_core.support.clock import utc_now

__all__ = ["LEASE_S", "Change", "InStep", "Indexer", "Outbox", "indexer_for"]

_LOG: Final = logging.getLogger("pattern_core")
_SETTLED: Final = 64
"""How many entries that are done with may wait for the next commit to be removed along with it."""
_BATCH: Final = 500
"""How many entries are carried out at a time."""
LEASE_S: Final = 600
"""How old an entry has to be for its owner to be taken for dead, in seconds. Clocks may differ by much less."""
_AGAIN_S: Final = 5
"""After how many seconds an entry that others still have is carried out again."""

Change = tuple[Table, VectorChange]


class Indexer(ABC):
    """Commits batches, and makes the index agree.

    Args:
        storage: The storage.
        vectors: The index.
    """

    def __init__(self, storage: Storage, vectors: VectorStore) -> None:
        self._storage = storage
        self._vectors = vectors

    @abstractmethod
    async def commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        """Commit a batch, then tell the index what has changed. One call at a time; nobody cancels it.

        Args:
            batch: The writes.
            changes: What the index has to hold from then on.

        Raises:
            PatternError: As `Storage.commit`.
        """

    @abstractmethod
    async def catch_up(self, turn: asyncio.Lock) -> None:
        """Return when the index holds everything that is acknowledged, whoever wrote it.

        Args:
            turn: What callers of `commit` hold; taken only where there is something to catch up with.

        Raises:
            PatternError: The index cannot take it.
        """

    @abstractmethod
    async def finish(self) -> None:
        """Leave nothing for later. Called when no commit is under way."""

    async def _apply(self, changes: Iterable[Change]) -> None:
        by_table: dict[str, tuple[Table, list[VectorChange]]] = {}
        for table, change in changes:
            by_table.setdefault(table.name, (table, []))[1].append(change)
        for table, found in by_table.values():
            await self._vectors.apply(table, found)

    async def _actual(self, records: Iterable[Change]) -> dict[tuple[str, str], tuple[Change, int]]:
        """Read what the index has to hold of records: for each the change, and the revision (0 where it is gone)."""
        by_table: dict[str, tuple[Table, dict[str, VectorChange]]] = {}
        for table, change in records:
            by_table.setdefault(table.name, (table, {}))[1][change.id] = change
        actual = {}
        for table, wanted in by_table.values():
            if table.vector is None or table.partition is None:
                continue
            rows = await self._storage.get(table, list(wanted), vectors=True)
            for change, row in zip(wanted.values(), rows, strict=True):
                if row is not None:
                    change = VectorChange(change.id, row[table.partition], row[table.vector.name])  # noqa: PLW2901
                else:
                    change = attrs.evolve(change, vector=None)  # noqa: PLW2901
                actual[table.name, change.id] = (table, change), 0 if row is None else int(row["revision"])
        return actual


class InStep(Indexer):
    """Tells the index after each commit: it lives no longer, and no shorter, than what it was told."""

    async def commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        try:
            await self._storage.commit(batch)
        except StorageError:
            with contextlib.suppress(StorageError):  # an engine that is gone answers no search either
                # Nobody knows whether the commit took effect.
                await self._apply(change for change, _ in (await self._actual(changes)).values())
            raise
        await self._apply(changes)

    async def catch_up(self, turn: asyncio.Lock) -> None:
        """There is never anything left."""

    async def finish(self) -> None:
        """There is never anything left."""


class Outbox(Indexer):
    """Writes with each commit which records the index has yet to learn of, and forgets it when it has.

    What the index is told is never what a commit meant to write, but what the storage holds now; and when it was told,
    the storage is asked again, until nothing has changed in between. So entries may be carried out in any order, twice,
    and by several processes at once: the last to write to the index has seen the record as it is.

    A process that dies between telling the index something old and asking again would leave that behind. So whoever
    tells the index of a record has an entry of its own for it, until it has asked again: the one that its commit wrote,
    or, where it carries out another's, a claim. Only when an entry is so old that its owner must have died
    (`LEASE_S`) may others remove it, having carried it out.

    Args:
        storage: The storage.
        vectors: The index.
        shared: Whether other processes may have both open.
    """

    def __init__(self, storage: Storage, vectors: VectorStore, *, shared: bool) -> None:
        super().__init__(storage, vectors)
        self._shared = shared
        self._own: set[str] = set()  # the entries of this process that are being carried out, or have been
        self._settled: list[str] = []
        self._given_up: set[str] = set()  # entries of this process that it could not carry out, and is no longer at
        self._delivered: dict[str, float] = {}  # when this process carried out an entry that others still have

    async def commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        entries = [_entry(table.name, change.id, change.partition) for table, change in changes]
        ids = [row["id"] for row in entries]
        settled = self._settled
        self._own.update(ids)
        try:
            forget = [Delete(OUTBOX, id) for id in settled]
            await self._storage.commit([*batch, *(Insert(OUTBOX, row) for row in entries), *forget])
        except BaseException:
            self._give_up(ids)  # if it took effect after all, the next search finds them
            raise
        self._own.difference_update(settled)
        self._settled = []
        try:
            await self._deliver(entries)
        except PatternError as error:
            # The records are written, and must not be reported as failed. Searches refuse to be incomplete.
            self._give_up(ids)
            _LOG.warning("the vector index has yet to learn of %d records, before the next search: %s", len(ids), error)
            return
        self._settled = ids
        if self._shared or len(ids) > _SETTLED:
            await self.finish()

    async def catch_up(self, turn: asyncio.Lock) -> None:
        if await self._others(1):
            async with turn:
                await self.drain()

    async def drain(self) -> int:
        """Carry out all entries that are there, whoever wrote them. To be called in turn with `commit`.

        Returns:
            How many there were.

        Raises:
            PatternError: The index cannot take them. They stay.
        """
        seen: set[str] = set()
        while entries := await self._others(_BATCH, seen):
            if self._shared:
                await self._deliver_others(entries)
            else:  # they were left by a process that is gone
                await self._deliver(entries)
                await self._storage.commit([Delete(OUTBOX, row["id"]) for row in entries])
            seen.update(row["id"] for row in entries)
        return len(seen)

    async def _deliver_others(self, entries: Sequence[Row]) -> None:
        claims = [
            _entry(row["record_table"], row["record_id"], row["record_partition"], is_claim=True) for row in entries
        ]
        ids = [row["id"] for row in claims]
        abandoned = [row["id"] for row in entries if row["id"] in self._given_up or row["created_at"] < _expired()]
        self._own.update(ids)
        try:
            await self._storage.commit([Insert(OUTBOX, row) for row in claims])
            await self._deliver(claims)
            await self._storage.commit([Delete(OUTBOX, id) for id in (*ids, *abandoned)])
        finally:
            self._own.difference_update(ids)
        self._given_up.difference_update(abandoned)
        now = time.monotonic()
        self._delivered = {id: at for id, at in self._delivered.items() if now - at < _AGAIN_S}
        self._delivered.update((row["id"], now) for row in entries if row["id"] not in abandoned)

    async def finish(self) -> None:
        settled, self._settled = self._settled, []
        for start in range(0, len(settled), _BATCH):
            with contextlib.suppress(PatternError):  # what stays is carried out again by the next who looks
                await self._storage.commit([Delete(OUTBOX, id) for id in settled[start : start + _BATCH]])
        self._own.difference_update(settled)

    def _give_up(self, ids: Sequence[str]) -> None:
        self._own.difference_update(ids)
        self._given_up.update(ids)

    async def _others(self, limit: int, seen: Collection[str] = ()) -> list[Row]:
        """Return entries that nobody in this process is at, or is done with, and claims of processes that died."""
        now = time.monotonic()
        done = self._own | {*seen} | {id for id, at in self._delivered.items() if now - at < _AGAIN_S}
        wanted = (Field("is_claim") == False) | (Field("created_at") < _expired())
        rows = await self._storage.find(OUTBOX, wanted, limit=limit + len(done))
        return [row for row in rows if row["id"] not in done][:limit]

    async def _deliver(self, entries: Sequence[Row]) -> None:
        """Make the index agree with the records as they are now; of tables that are gone, there is nothing to learn."""
        try:
            await self._agree(entries)
        except StorageError:
            present = await self._storage.tables()
            left = [row for row in entries if row["record_table"] in present]
            if len(left) == len(entries):
                raise
            await self._agree(left)

    async def _agree(self, entries: Sequence[Row]) -> None:
        behind = [
            (table, VectorChange(row["record_id"], row["record_partition"], None))
            for row in entries
            if (table := table_named(row["record_table"])) is not None
        ]
        while behind:
            before = await self._actual(behind)
            await self._apply(change for change, _ in before.values())
            after = await self._actual(behind)
            behind = [after[key][0] for key, (_, revision) in before.items() if after[key][1] != revision]


def _entry(table: str, id: str, partition: str, *, is_claim: bool = False) -> Row:
    now = utc_now()
    return {
        "id": uuid.uuid4().hex,
        "revision": 1,
        "created_at": now,
        "updated_at": now,
        "record_table": table,
        "record_id": id,
        "record_partition": partition,
        "is_claim": is_claim,
    }


def _expired() -> datetime:
    return utc_now() - timedelta(seconds=LEASE_S)


def indexer_for(storage: Storage, vectors: VectorStore, *, shared: bool = True) -> Indexer:
    """Return what keeps an index in agreement with a storage.

    Args:
        storage: The storage.
        vectors: The index.
        shared: Whether other processes may have both open.

    Returns:
        The outbox for an external index, else what tells the index at once.
    """
    return Outbox(storage, vectors, shared=shared) if vectors.place is not None else InStep(storage, vectors)

"""The outbox of an external vector index: pending index updates, written with each commit, removed when applied."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from pattern_core.abc import Delete, Insert, Row, Storage, VectorChange, VectorStore, Write
from pattern_core.catalog.commit_log import logged
from pattern_core.catalog.tables import OUTBOX, find_table
from pattern_core.errors import PatternError, StorageError
from pattern_core.filters import Field
from pattern_core.support.clock import utc_now

from .indexer import ImmediateIndexer, IndexChange, Indexer

__all__ = ["LEASE_S", "OutboxIndexer", "make_indexer"]

_LOG: Final = logging.getLogger("pattern_core")
_SETTLED: Final = 64
"""How many applied entries may wait to be removed by the next commit."""
_BATCH: Final = 500
"""How many entries are applied at a time."""
LEASE_S: Final = 600
"""The age, in seconds, from which the owner of an entry is considered dead. Clocks differ by much less."""
_AGAIN_S: Final = 5
"""The time, in seconds, until this process applies an entry again that another process still owns."""


class OutboxIndexer(Indexer):
    """Updates an external index through an outbox in the storage, so that no crash loses an update.

    Each commit also writes an entry for every changed record, and removes it when the index holds the change.

    The index never receives what a commit meant to write, but what the storage holds now. After an update, the storage
    is read again, until nothing has changed in between. So entries may be applied in any order, twice, and by several
    processes at once: the last process to update the index has seen the current record.

    A process could die between an outdated update and the second read. So a process that updates the index for a record
    owns an entry for it until the second read: the entry of its own commit, or a claim for another process's entry.
    Others may remove an entry only after applying it, and only if it is so old that its owner must be dead (`LEASE_S`).

    Args:
        storage: The storage.
        vectors: The index.
        shared: Whether other processes may have both open.
    """

    def __init__(self, storage: Storage, vectors: VectorStore, *, shared: bool) -> None:
        super().__init__(storage, vectors)
        self._shared = shared
        self._own: set[str] = set()  # entries of this process that are being applied, or have been
        self._settled: list[str] = []
        self._given_up: set[str] = set()  # entries of this process that it failed to apply
        self._delivered: dict[str, float] = {}  # when this process applied an entry that another still owns

    async def commit(self, batch: Sequence[Write], changes: Sequence[IndexChange]) -> None:
        entries = [_entry(table.name, change.id, change.partition) for table, change in changes]
        ids = [row["id"] for row in entries]
        settled = self._settled
        self._own.update(ids)
        try:
            forget = [Delete(OUTBOX, id) for id in settled]
            writes = [*batch, *(Insert(OUTBOX, row) for row in entries), *forget]
            await self._storage.commit(logged(writes, self._storage.writer))
        except BaseException:
            self._give_up(ids)  # if the commit took effect after all, the next search applies them
            raise
        self._own.difference_update(settled)
        self._settled = []
        try:
            await self._deliver(entries)
        except PatternError as error:
            # The records are written, so the call must not fail. A search applies the entries first, or fails.
            self._give_up(ids)
            _LOG.warning("%d updates of the vector index are pending until the next search: %s", len(ids), error)
            return
        self._settled = ids
        if self._shared or len(ids) > _SETTLED:
            await self.flush()

    async def catch_up(self, lock: asyncio.Lock) -> None:
        if await self._others(1):
            async with lock:
                await self.drain()

    async def drain(self) -> int:
        """Apply all entries, whoever wrote them. Callers hold the lock of `commit`.

        Returns:
            How many there were.

        Raises:
            PatternError: The index rejects them. They stay.
        """
        seen: set[str] = set()
        while entries := await self._others(_BATCH, seen):
            if self._shared:
                await self._deliver_others(entries)
            else:  # a process that has ended left them
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

    async def flush(self) -> None:
        settled, self._settled = self._settled, []
        for start in range(0, len(settled), _BATCH):
            with contextlib.suppress(PatternError):  # entries that stay are applied once more
                await self._storage.commit([Delete(OUTBOX, id) for id in settled[start : start + _BATCH]])
        self._own.difference_update(settled)

    def _give_up(self, ids: Sequence[str]) -> None:
        self._own.difference_update(ids)
        self._given_up.update(ids)

    async def _others(self, limit: int, seen: Collection[str] = ()) -> list[Row]:
        """Return entries that this process neither applies nor has applied, and claims of dead processes."""
        now = time.monotonic()
        done = self._own | {*seen} | {id for id, at in self._delivered.items() if now - at < _AGAIN_S}
        wanted = (Field("is_claim") == False) | (Field("created_at") < _expired())
        rows = await self._storage.find(OUTBOX, wanted, limit=limit + len(done))
        return [row for row in rows if row["id"] not in done][:limit]

    async def _deliver(self, entries: Sequence[Row]) -> None:
        """Make the index agree with the records as they are now; entries of dropped tables are skipped."""
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
            if (table := find_table(row["record_table"])) is not None
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


def make_indexer(storage: Storage, vectors: VectorStore, *, shared: bool = True) -> Indexer:
    """Return the indexer for a vector search.

    Args:
        storage: The storage.
        vectors: The index.
        shared: Whether other processes may have both open.

    Returns:
        An `OutboxIndexer` for an external index, else an `ImmediateIndexer`.
    """
    return (
        OutboxIndexer(storage, vectors, shared=shared)
        if vectors.location is not None
        else ImmediateIndexer(storage, vectors)
    )

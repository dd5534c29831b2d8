"""Keep the vector index in agreement with the storage, commit by commit.

An index that lives in the storage or in this process is told after each commit (`InStep`). One that is kept in a place
of its own could be left behind by a crash between the two; so the commit itself also writes to an outbox which records
the index has yet to learn of (`Outbox`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .abc import Delete, Insert, Row, Storage, VectorChange, VectorStore, Write
from .clock import utc_now
from .errors import PatternError, StorageError
from .schema import OUTBOX, TABLES, Table

__all__ = ["Change", "InStep", "Indexer", "Outbox", "indexer_for"]

_LOG: Final = logging.getLogger("pattern_core")
_SETTLED: Final = 64
"""How many entries that are done with may wait for the next commit to be removed along with it."""
_BATCH: Final = 500
"""How many entries are carried out at a time."""

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
    """

    def __init__(self, storage: Storage, vectors: VectorStore) -> None:
        super().__init__(storage, vectors)
        self._own: set[str] = set()  # the entries of this process that are being carried out, or have been
        self._settled: list[str] = []

    async def commit(self, batch: Sequence[Write], changes: Sequence[Change]) -> None:
        entries = [_entry(table, change) for table, change in changes]
        ids = [row["id"] for row in entries]
        settled = self._settled
        self._own.update(ids)
        try:
            forget = [Delete(OUTBOX, id) for id in settled]
            await self._storage.commit([*batch, *(Insert(OUTBOX, row) for row in entries), *forget])
        except BaseException:
            self._own.difference_update(ids)  # if it took effect after all, the next search finds them
            raise
        self._own.difference_update(settled)
        self._settled = []
        try:
            await self._deliver(entries)
        except PatternError as error:
            # The records are written, and must not be reported as failed. Searches refuse to be incomplete.
            self._own.difference_update(ids)
            _LOG.warning("the vector index has yet to learn of %d records, before the next search: %s", len(ids), error)
            return
        self._settled = ids
        if len(ids) > _SETTLED:
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
        count = 0
        while entries := await self._others(_BATCH):
            await self._deliver(entries)
            await self._storage.commit([Delete(OUTBOX, row["id"]) for row in entries])
            count += len(entries)
        return count

    async def finish(self) -> None:
        settled, self._settled = self._settled, []
        for start in range(0, len(settled), _BATCH):
            with contextlib.suppress(PatternError):  # what stays is carried out again by the next who looks
                await self._storage.commit([Delete(OUTBOX, id) for id in settled[start : start + _BATCH]])
        self._own.difference_update(settled)

    async def _others(self, limit: int) -> list[Row]:
        """Return entries that nobody in this process is at, or is done with."""
        rows = await self._storage.find(OUTBOX, limit=limit + len(self._own))
        return [row for row in rows if row["id"] not in self._own][:limit]

    async def _deliver(self, entries: Sequence[Row]) -> None:
        """Make the index agree with the records as they are now."""
        behind = [
            (TABLES[row["record_table"]], VectorChange(row["record_id"], row["record_partition"], None))
            for row in entries
            if row["record_table"] in TABLES
        ]
        while behind:
            before = await self._actual(behind)
            await self._apply(change for change, _ in before.values())
            after = await self._actual(behind)
            behind = [after[key][0] for key, (_, revision) in before.items() if after[key][1] != revision]


def _entry(table: Table, change: VectorChange) -> Row:
    now = utc_now()
    return {
        "id": uuid.uuid4().hex,
        "revision": 1,
        "created_at": now,
        "updated_at": now,
        "record_table": table.name,
        "record_id": change.id,
        "record_partition": change.partition,
    }


def indexer_for(storage: Storage, vectors: VectorStore) -> Indexer:
    """Return what keeps an index in agreement with a storage.

    Args:
        storage: The storage.
        vectors: The index.

    Returns:
        The outbox for an external index, else what tells the index at once.
    """
    return Outbox(storage, vectors) if vectors.external else InStep(storage, vectors)

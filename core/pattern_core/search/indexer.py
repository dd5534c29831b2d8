"""Indexers: commit a batch, and make the vector index agree."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import attrs

from pattern_core.abc import Storage, VectorChange, VectorStore, Write
from pattern_core.catalog.commit_log import logged
from pattern_core.errors import StorageError
from pattern_core.schema import Table

__all__ = ["ImmediateIndexer", "IndexChange", "Indexer"]

IndexChange = tuple[Table, VectorChange]


class Indexer(ABC):
    """Commits batches and updates the vector index after each.

    Args:
        storage: The storage.
        vectors: The index.
    """

    def __init__(self, storage: Storage, vectors: VectorStore) -> None:
        self._storage = storage
        self._vectors = vectors

    @abstractmethod
    async def commit(self, batch: Sequence[Write], changes: Sequence[IndexChange]) -> None:
        """Commit a batch, then update the index. Callers make one call at a time, and do not cancel it.

        Args:
            batch: The writes.
            changes: The changes of the index.

        Raises:
            PatternError: As `Storage.commit`.
        """

    @abstractmethod
    async def catch_up(self, lock: asyncio.Lock) -> None:
        """Return when the index holds everything that is acknowledged, whoever wrote it.

        Args:
            lock: The lock that callers of `commit` hold. It is taken only if there are pending updates.

        Raises:
            PatternError: The index rejects the updates.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Finish pending work. Called while no commit runs."""

    async def _apply(self, changes: Iterable[IndexChange]) -> None:
        by_table: dict[str, tuple[Table, list[VectorChange]]] = {}
        for table, change in changes:
            by_table.setdefault(table.name, (table, []))[1].append(change)
        for table, found in by_table.values():
            await self._vectors.apply(table, found)

    async def _actual(self, records: Iterable[IndexChange]) -> dict[tuple[str, str], tuple[IndexChange, int]]:
        """Read the current change of each record, and its revision; 0 for a deleted record."""
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


class ImmediateIndexer(Indexer):
    """Updates an index that lives in the storage or in this process, so that no crash can separate the two."""

    async def commit(self, batch: Sequence[Write], changes: Sequence[IndexChange]) -> None:
        try:
            await self._storage.commit(logged(batch, self._storage.writer))
        except StorageError:
            with contextlib.suppress(StorageError):  # an engine that is gone answers no search either
                # The commit may have taken effect, so read what is there.
                await self._apply(change for change, _ in (await self._actual(changes)).values())
            raise
        await self._apply(changes)

    async def catch_up(self, lock: asyncio.Lock) -> None:
        """Return: nothing is ever pending."""

    async def flush(self) -> None:
        """Return: nothing is ever pending."""

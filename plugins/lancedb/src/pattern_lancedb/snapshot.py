"""Snapshots of a database, and the changes of a commit: immutable values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, Final, TypeAlias

import attrs
import lancedb
import pyarrow as pa

from pattern_core.errors import StorageError

from .manifest import Manifest, TableEntry
from .wal import WalWrite

__all__ = ["Changes", "MemTable", "Plan", "Snapshot", "TableDefinition", "TableWrite"]


@attrs.frozen
class TableDefinition:
    """A table to create.

    Attributes:
        schema: The columns. The text column ``id`` identifies a row.
        indexes: The columns that get a scalar index when the table is large enough.
        rows: Streams the first rows; None for an empty table.
    """

    schema: pa.Schema
    indexes: tuple[str, ...] = ("id",)
    rows: Callable[[], AsyncIterator[pa.Table]] | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class TableWrite:
    """The changes of a commit to the rows of a table.

    Attributes:
        rows: New rows, and rows that replace those with their ids; each id once.
        delete: The ids of rows to delete, none of which is in ``rows``. Missing ones are ignored.
    """

    rows: pa.RecordBatch | None = None
    delete: Sequence[str] = ()


@attrs.frozen
class Changes:
    """The changes of a commit.

    Attributes:
        writes: The changes to the rows of each table.
        create: The tables to create. An existing one is replaced.
        drop: The tables to drop. Missing ones are ignored.
        state: Entries of the manifest's ``state`` to set, as JSON values; None removes one.
    """

    writes: Mapping[str, TableWrite] = attrs.field(factory=dict)
    create: Mapping[str, TableDefinition] = attrs.field(factory=dict)
    drop: Collection[str] = ()
    state: Mapping[str, Any] = attrs.field(factory=dict)


class MemTable:
    """The rows of one table that the WAL writes or deletes. They hide the rows of the Lance table. Immutable.

    Args:
        rows: By id, the write that holds the row, and the row's position in it; None for a deleted row.
    """

    def __init__(self, rows: Mapping[str, tuple[WalWrite, int] | None]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> AbstractSet[str]:
        """The ids that the WAL writes or deletes."""
        return self._rows.keys()

    def get(self, id: str) -> tuple[WalWrite, int] | None:
        """Return the write that holds a row, and the row's position; None for a deleted or unknown row."""
        return self._rows.get(id)

    @cached_property
    def positions(self) -> Mapping[WalWrite, list[int]]:
        """By write, the positions of the rows that later writes have not replaced or deleted."""
        positions: dict[WalWrite, list[int]] = {}
        for found in self._rows.values():
            if found is not None:
                positions.setdefault(found[0], []).append(found[1])
        return positions

    @cached_property
    def rows(self) -> pa.Table | None:
        """The rows, without deleted ones, in no order; None if there are none."""
        parts = [write.rows.take(pa.array(rows)) for write, rows in self.positions.items() if write.rows is not None]
        return pa.Table.from_batches(parts) if parts else None

    def with_writes(self, writes: Sequence[WalWrite]) -> MemTable:
        """Return the table after further writes."""
        rows = dict(self._rows)
        for write in writes:
            rows.update(dict.fromkeys(write.delete))
            if write.rows is not None:
                ids = write.rows.column("id").to_pylist()
                rows.update((id, (write, position)) for position, id in enumerate(ids))
        return MemTable(rows)


_EMPTY: Final = MemTable({})


class Snapshot:
    """The database at one moment: Lance tables at the versions of a manifest, and memtables on top. Immutable.

    Args:
        manifest: The manifest.
        memtables: The memtables, by the names of the Lance tables.
        open_version: Opens a version of a Lance table.
    """

    def __init__(
        self,
        manifest: Manifest,
        memtables: Mapping[str, MemTable],
        open_version: Callable[[str, int], Awaitable[lancedb.AsyncTable]],
    ) -> None:
        self.manifest = manifest
        self._memtables = memtables
        self._open_version = open_version

    @property
    def state(self) -> Mapping[str, Any]:
        """The state of the manifest."""
        return self.manifest.state

    @property
    def names(self) -> frozenset[str]:
        """The names of the tables."""
        return frozenset(self.manifest.tables)

    def entry(self, name: str) -> TableEntry:
        """Return the manifest's entry of a table; raise `StorageError` if there is none."""
        try:
            return self.manifest.tables[name]
        except KeyError:
            raise StorageError(f"there is no table {name}. Create it with apply_schema.") from None

    async def table(self, name: str) -> lancedb.AsyncTable:
        """Return the Lance table at the version of this snapshot, for reading only."""
        entry = self.entry(name)
        return await self._open_version(entry.lance_name, entry.version)

    def memtable(self, name: str) -> MemTable:
        """Return the memtable of a table."""
        return self._memtables.get(self.entry(name).lance_name, _EMPTY)

    def with_writes(self, manifest: Manifest, writes: Sequence[WalWrite]) -> Snapshot:
        """Return the snapshot of another manifest, after further writes."""
        by_table: dict[str, list[WalWrite]] = {}
        for write in writes:
            by_table.setdefault(write.lance_name, []).append(write)
        memtables = {name: self._memtables.get(name, _EMPTY).with_writes(each) for name, each in by_table.items()}
        return Snapshot(manifest, {**self._memtables, **memtables}, self._open_version)

    def without_wal(self) -> Snapshot:
        """Return the snapshot with empty memtables."""
        return Snapshot(self.manifest, {}, self._open_version)


Plan: TypeAlias = Callable[[Snapshot], Awaitable[Changes]]
"""Decides the changes of a commit from a snapshot. It may be called again. The committer gets its errors."""

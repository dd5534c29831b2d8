"""The Lance tables of a database: opened at a version, created, written and dropped.

A write makes a new version, which nobody reads until a manifest names it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Self, TypeAlias

import attrs
import lancedb
import pyarrow as pa

from pattern_core.errors import ClosedError, PatternError, StorageError

from .dialect import MAX_VALUES, any_of
from .manifest import TableEntry, unique_name
from .snapshot import MemTable, TableDefinition
from .store import StaleManifestError, Store

__all__ = ["LanceTables", "TableWork", "closed_error", "engine_errors"]

TableWork: TypeAlias = Callable[[lancedb.AsyncTable, TableEntry], Awaitable[object]]
"""Changes how a Lance table is stored, and none of its rows: builds an index, compacts."""

_MAX_OPEN_TABLES: Final = 64


@contextlib.contextmanager
def engine_errors(action: str) -> Iterator[None]:
    """Turn errors of the engine, which have no common class, into `StorageError`.

    Args:
        action: What the engine is asked to do, as in "LanceDB failed to …".
    """
    try:
        yield
    except (PatternError, StaleManifestError):
        raise
    except (RuntimeError, ValueError, TypeError, OSError, LookupError, pa.ArrowException) as error:
        raise StorageError(f"LanceDB failed to {action}: {error}") from error


def closed_error() -> ClosedError:
    """Return the error for a call after `aclose`."""
    return ClosedError("the LanceDB database is closed. Open it again.")


class LanceTables:
    """The Lance tables of a database. `LanceTables.open` connects to them.

    Args:
        connection: The open connection.
        store: The store of the database.
    """

    def __init__(self, connection: lancedb.AsyncConnection, store: Store) -> None:
        self._connection = connection
        self._store = store
        self._opened: OrderedDict[tuple[str, int], lancedb.AsyncTable] = OrderedDict()

    @classmethod
    async def open(cls, store: Store) -> Self:
        """Connect to the tables of a store; raise `StorageError` if that fails."""
        with engine_errors(f"open {store.uri}"):
            options = dict(store.storage_options) or None
            return cls(await lancedb.connect_async(store.uri, storage_options=options), store)

    async def open_version(self, lance_name: str, version: int) -> lancedb.AsyncTable:
        """Return a version of a table, for reading only."""
        if not self._connection.is_open():  # type: ignore[no-untyped-call]  # lancedb omits the type
            raise closed_error()
        key = (lance_name, version)
        table = self._opened.get(key)
        if table is None:
            with engine_errors(f"open {lance_name} at version {version}"):
                table = await self._connection.open_table(lance_name, version=version)
            self._opened[key] = table
            while len(self._opened) > _MAX_OPEN_TABLES:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return table

    async def list_names(self) -> list[str]:
        """Return the names of all tables, also of those that no manifest names."""
        names: list[str] = []
        token = None
        while True:
            page = await self._connection.list_tables(page_token=token)
            names += page.tables
            token = page.page_token
            if not token:
                return names

    async def create(self, name: str, definition: TableDefinition, sequence: int) -> TableEntry:
        """Create a table under a new name; return its entry.

        Args:
            name: The name in the manifest.
            definition: The columns and rows.
            sequence: The sequence number of the manifest that will name the table first.
        """
        lance_name = f"{name}-{unique_name(sequence)}"
        with engine_errors(f"create {name}"):
            table = await self._connection.create_table(lance_name, schema=definition.schema)
            rows = 0
            if definition.rows is not None:  # `create_table` with rows rejects vectors that are null
                async for part in definition.rows():
                    await table.add(part)
                    rows += part.num_rows
            version = await table.version()
        await self._store.sync_table(lance_name)
        return TableEntry(lance_name, version, definition.indexes, rows, changed_rows=rows, flushes=1 if rows else 0)

    async def drop(self, lance_name: str) -> None:
        """Drop a table; do nothing if it is missing."""
        with engine_errors(f"drop {lance_name}"):
            await self._connection.drop_table(lance_name, ignore_missing=True)

    async def flush(self, entry: TableEntry, memtable: MemTable) -> TableEntry:
        """Write a memtable into its Lance table; return the new entry."""
        with engine_errors(f"write {entry.lance_name}"):
            table, version = await self._open_for_writing(entry)
            ids = [*memtable.ids] if entry.rows else []
            for start in range(0, len(ids), MAX_VALUES):
                deleted = await table.delete(any_of("id", ids[start : start + MAX_VALUES]))
                version = _next_version(entry, version, deleted.version)
            if memtable.rows is not None:
                added = await table.add(memtable.rows)
                version = _next_version(entry, version, added.version)
            rows = await table.count_rows()
        await self._store.sync_table(entry.lance_name)
        changed_rows = entry.changed_rows + len(memtable)
        return attrs.evolve(entry, version=version, rows=rows, changed_rows=changed_rows, flushes=entry.flushes + 1)

    async def maintain(self, entry: TableEntry, work: TableWork) -> TableEntry:
        """Do work on a table that keeps its rows; return the new entry."""
        with engine_errors(f"maintain {entry.lance_name}"):
            table, _ = await self._open_for_writing(entry)
            await work(table, entry)
            await table.checkout_latest()  # type: ignore[no-untyped-call]  # lancedb omits the type
            rows = await table.count_rows()
            if rows != entry.rows:
                raise _overtaken(entry)
            version = await table.version()
        await self._store.sync_table(entry.lance_name)
        return attrs.evolve(entry, version=version)

    def close(self) -> None:
        """Close the connection."""
        self._opened.clear()
        self._connection.close()  # type: ignore[no-untyped-call]  # lancedb omits the type

    async def _open_for_writing(self, entry: TableEntry) -> tuple[lancedb.AsyncTable, int]:
        """Return a table with the rows of its entry's version, and its newest version.

        No manifest names a version that is newer than the entry's: its writer crashed, or another writer was faster.
        """
        table = await self._connection.open_table(entry.lance_name)
        version = await table.version()
        if version != entry.version:
            await table.checkout(entry.version)
            await table.restore()
            version = await table.version()
        return table, version


def _next_version(entry: TableEntry, version: int, written: int) -> int:
    """Return the written version; raise if Lance has merged the write of another process before it."""
    if written not in {version, version + 1}:
        raise _overtaken(entry)
    return written


def _overtaken(entry: TableEntry) -> StorageError:
    return StorageError(f"another process wrote {entry.lance_name} at the same time, so this write was discarded")

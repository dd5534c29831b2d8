"""Computes the changes of a batch of writes from a snapshot, in Python."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from pattern_core.abc import Check, CheckNone, Delete, Insert, Patch, Put, Row
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError
from pattern_core.filters import Filter, matches
from pattern_core.schema import Table

from .commit_log import NumberedWrite
from .record_reader import RecordReader
from .snapshot import Changes, Snapshot, TableWrite
from .values import check, encode

__all__ = ["batch_changes"]

_INLINE_ROWS: Final = 256
"""Up to so many rows are encoded on the event loop; more in a thread."""


async def batch_changes(reader: RecordReader, snapshot: Snapshot, batch: Sequence[NumberedWrite]) -> Changes:
    """Apply a batch in memory, and return its changes.

    Args:
        reader: Reads the records that the batch needs.
        snapshot: The database before the batch.
        batch: The writes. Each sees the changes of those before it.

    Raises:
        AlreadyExistsError: An id or unique key is taken.
        ConflictError: A record does not have the expected revision, or a check failed.
        NotFoundError: A record to patch or check is missing.
        StorageError: A table is missing, or a value does not fit its column.
    """
    records = {write.table.name: _Records(reader, snapshot, write.table) for write in batch}
    await asyncio.gather(
        *(each.load([write for write in batch if write.table.name == each.table.name]) for each in records.values())
    )
    for write in batch:
        await _apply(records[write.table.name], write)
    return Changes(writes={name: await each.changes() for name, each in records.items()})


async def _apply(records: _Records, write: NumberedWrite) -> None:
    table = records.table
    match write:
        case Insert(_, row):
            if records.get(row["id"]) is not None:
                raise AlreadyExistsError(table.name, {"id": row["id"]})
            await records.put(row)
        case Put(_, row):
            await records.put(row)
        case Patch(_, id, changes, revision):
            found = records.expect(id, revision, must_exist=True)
            if changes and found is not None:
                check(table, found | changes)
                await records.put(found | changes)
        case Delete(_, id, revision):
            if records.expect(id, revision, must_exist=False) is not None:
                records.remove(id)
        case CheckNone(_, where):
            if await records.any(where):
                raise ConflictError(table.name, str(where), None)
        case Check(_, id, 0):
            if records.get(id) is not None:
                raise ConflictError(table.name, id, None)
        case Check(_, id, revision):
            records.expect(id, revision, must_exist=True)


class _Records:
    """The records of one table that a batch reads or writes, at the current point of the batch."""

    def __init__(self, reader: RecordReader, snapshot: Snapshot, table: Table) -> None:
        snapshot.entry(table.name)  # raises if the table is missing
        self.table = table
        self._reader = reader
        self._snapshot = snapshot
        self._rows: dict[str, Row | None] = {}
        self._before: Collection[str] = ()
        self._changed: dict[str, None] = {}
        self._owners: dict[tuple[Any, ...], str | None] = {}

    async def load(self, writes: Sequence[NumberedWrite]) -> None:
        """Read the records that the writes name, all at once."""
        ids = {_id(write) for write in writes if not isinstance(write, CheckNone)}
        # A Put needs the record before it only for unique keys, or for a CheckNone.
        read_all = self.table.unique or any(isinstance(write, CheckNone) for write in writes)
        reading = [write for write in writes if read_all or not isinstance(write, Put)]
        read = {_id(write) for write in reading if not isinstance(write, CheckNone)}
        rows = await self._reader.get(self._snapshot, self.table, read, self._columns(writes))
        self._rows = {id: rows.get(id) for id in ids}
        self._before = rows.keys()
        for row in rows.values():
            self._owners.update(dict.fromkeys(self._keys(row), row["id"]))
        given = [write.row for write in writes if isinstance(write, Insert | Put)]
        for row in given:
            check(self.table, row)
        await self._look_up(given)

    def _columns(self, writes: Sequence[NumberedWrite]) -> set[str]:
        """Return the columns of existing records that the writes need."""
        if any(isinstance(write, Patch | CheckNone) for write in writes):
            return {each.name for each in self.table.columns}
        return {"id", "revision", *(name for key in self.table.unique for name in key)}

    def get(self, id: str) -> Row | None:
        """Return a record; None if it is missing."""
        return self._rows[id]

    def expect(self, id: str, revision: int | None, *, must_exist: bool) -> Row | None:
        """Return a record; raise if its revision or existence is not as expected."""
        row = self._rows[id]
        if revision is not None and (row is None or row["revision"] != revision):
            raise ConflictError(self.table.name, id, revision)
        if row is None and must_exist:
            raise NotFoundError(self.table.name, id)
        return row

    async def put(self, row: Row) -> None:
        """Write a whole record; raise `AlreadyExistsError` if another one has one of its unique keys."""
        await self._look_up([row])
        for key in self._keys(row):
            if self._owners[key] not in {None, row["id"]}:
                raise AlreadyExistsError(self.table.name, dict(zip(*key, strict=True)))
        self._set(row["id"], row)

    def remove(self, id: str) -> None:
        """Remove a record."""
        self._set(id, None)

    async def any(self, where: Filter) -> bool:
        """Return whether some record satisfies a filter."""
        if any(row is not None and matches(where, row) for row in self._rows.values()):
            return True
        # Some matches may be records of this batch, which are already checked.
        found = await self._reader.find(self._snapshot, self.table, where, ["id"], limit=len(self._rows) + 1)
        return any(row["id"] not in self._rows for row in found)

    async def changes(self) -> TableWrite:
        """Return the changes."""
        rows = [row for id in self._changed if (row := self._rows[id]) is not None]
        deleted = [id for id in self._changed if self._rows[id] is None and id in self._before]
        if not rows:
            return TableWrite(delete=deleted)
        schema = await self._reader.schema(self._snapshot, self.table)
        if len(rows) > _INLINE_ROWS:
            return TableWrite(await asyncio.to_thread(encode, self.table, rows, schema), deleted)
        return TableWrite(encode(self.table, rows, schema), deleted)

    def _set(self, id: str, row: Row | None) -> None:
        before = self._rows[id]
        if before is not None:
            self._owners.update(dict.fromkeys(self._keys(before)))
        if row is not None:
            self._owners.update(dict.fromkeys(self._keys(row), id))
        self._rows[id] = row
        self._changed[id] = None

    def _keys(self, row: Row) -> list[tuple[tuple[str, ...], tuple[Any, ...]]]:
        return [(key, tuple(row[name] for name in key)) for key in self.table.unique]

    async def _look_up(self, rows: Sequence[Row]) -> None:
        """Look up which records have the unique keys of rows."""
        for number, key in enumerate(self.table.unique):
            keys = [self._keys(row)[number] for row in rows]
            wanted = {values for key, values in keys if (key, values) not in self._owners}
            if wanted:
                owners = await self._reader.owners(self._snapshot, self.table, key, wanted)
                self._owners.update({(key, values): owners.get(values) for values in wanted})


def _id(write: Insert | Put | Patch | Delete | Check) -> str:
    if isinstance(write, Insert | Put):
        id: str = write.row["id"]
        return id
    return write.id

"""What is there at one moment, and what a commit does to it: values, none of which ever changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, Final, TypeAlias

import attrs
import lancedb
import pyarrow as pa

from pattern_core.errors import StorageError

from .head import Head, TableEntry, Write

__all__ = ["Changes", "Definition", "Plan", "Snapshot", "TableWrite", "Tail"]


@attrs.frozen
class Definition:
    """A table to create.

    Attributes:
        schema: Its columns; the text column ``id`` tells its rows apart.
        indexes: The columns that get a scalar index once there is something to index.
        rows: Reads what it holds from the start, some rows at a time; None for nothing.
    """

    schema: pa.Schema
    indexes: tuple[str, ...] = ("id",)
    rows: Callable[[], AsyncIterator[pa.Table]] | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class TableWrite:
    """What a commit does to a table.

    Attributes:
        rows: Rows that are new, or replace the ones with their ids; each id once.
        delete: The ids of rows that go away; a missing one is no error. None of them is among ``rows``.
    """

    rows: pa.RecordBatch | None = None
    delete: Sequence[str] = ()


@attrs.frozen
class Changes:
    """What a commit does.

    Attributes:
        writes: What it does to the rows of each table.
        create: Tables to create; one that is there is replaced.
        drop: Tables to remove; a missing one is no error.
        state: Entries of the head's ``state`` to set, JSON; None removes one.
    """

    writes: Mapping[str, TableWrite] = attrs.field(factory=dict)
    create: Mapping[str, Definition] = attrs.field(factory=dict)
    drop: Collection[str] = ()
    state: Mapping[str, Any] = attrs.field(factory=dict)


class Tail:
    """What the log says of a table: it comes before what the Lance table holds. Immutable.

    Args:
        found: For each id that the log has written or deleted, the write and the place in its rows that hold the row;
            None where it is deleted.
    """

    def __init__(self, found: Mapping[str, tuple[Write, int] | None]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @property
    def ids(self) -> AbstractSet[str]:
        """The ids that the log has written or deleted: rows of the Lance table with these ids do not count."""
        return self._found.keys()

    def get(self, id: str) -> tuple[Write, int] | None:
        """Return the write and the place in its rows that hold a row; None where the log has not written or deleted it."""
        return self._found.get(id)

    @cached_property
    def written(self) -> Mapping[Write, list[int]]:
        """For each write, the places in its rows that still count."""
        places: dict[Write, list[int]] = {}
        for found in self._found.values():
            if found is not None:
                places.setdefault(found[0], []).append(found[1])
        return places

    @cached_property
    def rows(self) -> pa.Table | None:
        """The rows that the log has written and not deleted, in no order; None where there is none."""
        parts = [write.rows.take(pa.array(places)) for write, places in self.written.items() if write.rows is not None]
        return pa.Table.from_batches(parts) if parts else None

    def grown(self, writes: Sequence[Write]) -> Tail:
        """Return the tail that further writes make of this one."""
        found = dict(self._found)
        for write in writes:
            found.update(dict.fromkeys(write.delete))
            if write.rows is not None:
                ids = write.rows.column("id").to_pylist()
                found.update((id, (write, place)) for place, id in enumerate(ids))
        return Tail(found)


_EMPTY: Final = Tail({})


class Snapshot:
    """The database at one moment; it stays as it is, whatever is committed.

    Attributes:
        head: The document that says what it is.
    """

    def __init__(
        self, head: Head, tails: Mapping[str, Tail], pinned: Callable[[str, int], Awaitable[lancedb.AsyncTable]]
    ) -> None:
        self.head = head
        self._tails = tails
        self._pinned = pinned

    @property
    def sequence(self) -> int:
        """Counts the heads: commits, and what upkeep has published."""
        return self.head.sequence

    @property
    def state(self) -> Mapping[str, Any]:
        """What `Changes.state` has gathered."""
        return self.head.state

    @property
    def names(self) -> frozenset[str]:
        """The tables."""
        return frozenset(self.head.tables)

    def entry(self, name: str) -> TableEntry:
        """Return what the head says of a table; raise `StorageError` where there is none."""
        try:
            return self.head.tables[name]
        except KeyError:
            raise StorageError(f"there is no table {name}; create it with apply_schema") from None

    async def table(self, name: str) -> lancedb.AsyncTable:
        """Return the Lance table, for reading only, at the version that belongs to this snapshot."""
        entry = self.entry(name)
        return await self._pinned(entry.place, entry.version)

    def tail(self, name: str) -> Tail:
        """Return what the log says of a table."""
        return self._tails.get(self.entry(name).place, _EMPTY)

    def grown(self, head: Head, writes: Sequence[Write]) -> Snapshot:
        """Return the database with another head, and writes that come after those of this one."""
        touched: dict[str, list[Write]] = {}
        for write in writes:
            touched.setdefault(write.place, []).append(write)
        tails = {place: self._tails.get(place, _EMPTY).grown(each) for place, each in touched.items()}
        return Snapshot(head, {**self._tails, **tails}, self._pinned)

    def bare(self) -> Snapshot:
        """Return the database without its log."""
        return Snapshot(self.head, {}, self._pinned)


Plan: TypeAlias = Callable[[Snapshot], Awaitable[Changes]]
"""Decides what a commit does, from what is there. It may be called again; what it raises reaches the committer."""

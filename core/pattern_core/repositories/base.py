"""What all repositories do: create, read, list and count; and what most do: update and delete."""

from __future__ import annotations

import builtins
import enum
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

from pattern_core.abc import CheckNone, Row
from pattern_core.errors import ConflictError, NotFoundError, ReferencedError, ValidationError, nearest, shorten
from pattern_core.filters import Field, Filter
from pattern_core.models import Page, Record
from pattern_core.schema import TABLES, Table
from pattern_core.sessions.edits import Edit, differs
from pattern_core.sessions.session import Session
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import check_id

from .paging import cursor_after, parse_order, resume

__all__ = ["PAGE", "AppendRepository", "Repository", "active"]

R = TypeVar("R", bound=Record)

PAGE: Final = 100
_MANAGED: Final = frozenset({"id", "revision", "created_at", "updated_at", "embedding"})


class AppendRepository(Generic[R]):
    """Creates and reads records of one kind.

    Args:
        session: Where it reads and writes.
    """

    table: ClassVar[Table]
    record: type[R]

    def __init__(self, session: Session) -> None:
        self._session = session

    async def create_many(self, records: Iterable[Mapping[str, Any]]) -> builtins.list[R]:
        """Create records, all or none, in one commit.

        Args:
            records: For each record the arguments of `create`.

        Returns:
            The records, in the order given.

        Raises:
            ValidationError: A value does not fit; see also the errors of `create`. Nothing was written.
        """
        made = self._make_many(records)
        return await self._insert(made) if made else []

    async def get(self, id: str) -> R:
        """Read a record that must exist.

        Args:
            id: Its id.

        Returns:
            The record.

        Raises:
            NotFoundError: There is none.
        """
        found = await self.find(id)
        if found is None:
            raise NotFoundError(self.table.name, id)
        return found

    async def find(self, id: str) -> R | None:
        """Read a record that may exist.

        Args:
            id: Its id.

        Returns:
            The record, or None.
        """
        check_id(id, self.table.name)
        (row,) = await self._session.get(self.table, [id])
        return None if row is None else self._load(row)

    async def list(
        self,
        where: Filter | None = None,
        *,
        order: str | Sequence[str] = "created_at",
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[R]:
        """Read a page of records.

        Args:
            where: The filter, as ``Field("name") == value`` makes one; None for all.
            order: Columns to sort by, a minus before one for descending; null first, ties by id.
            limit: The most records to return.
            cursor: The ``cursor`` of the page before. Records that come or go meanwhile shift nothing: no other comes
                twice or is passed over. One whose place in the order changes comes where it is met.

        Returns:
            The records, and the cursor for the next page.

        Raises:
            FilterError: An unknown field, an operator or value that does not suit it, or a cursor of another order.
        """
        if not isinstance(limit, int) or limit < 1:
            raise ValidationError(f"limit has to be at least 1, got {shorten(limit)}", where=self.table.name)
        self.table.check_filter(where)
        keys = parse_order(self.table, order)
        if cursor is not None:
            behind = resume(self.table, keys, cursor)
            where = behind if where is None else where & behind
        # One more than wanted tells whether there is a next page.
        rows = await self._session.find(self.table, where, order=keys, limit=limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(tuple(self._load(row) for row in rows), cursor_after(keys, rows[-1]) if more else None)

    async def iterate(
        self, where: Filter | None = None, *, order: str | Sequence[str] = "created_at", page: int = PAGE
    ) -> AsyncIterator[R]:
        """Read all records that satisfy a filter, page by page.

        Args:
            where: The filter; None for all.
            order: Columns to sort by, as for `list`.
            page: How many records to read at a time.

        Yields:
            The records, in order.
        """
        cursor: str | None = None
        while True:
            found = await self.list(where, order=order, limit=page, cursor=cursor)
            for record in found:
                yield record
            cursor = found.cursor
            if cursor is None:
                return

    async def count(self, where: Filter | None = None) -> int:
        """Count the records that satisfy a filter.

        Args:
            where: The filter; None counts all.

        Returns:
            How many there are.
        """
        self.table.check_filter(where)
        return await self._session.count(self.table, where)

    def _load(self, row: Row) -> R:
        return self.record(**row)

    def _make_many(self, records: Iterable[Mapping[str, Any]]) -> builtins.list[R]:
        if isinstance(records, Mapping | str) or not isinstance(records, Iterable):
            message = f"expected a list with a dict for each record, got {shorten(records)}"
            raise ValidationError(message, where=self.table.name)
        return [self._make(values) for values in records]

    def _make(self, values: Mapping[str, Any]) -> R:
        """Make a new record from what a caller gave."""
        if not isinstance(values, Mapping):
            message = f"expected a dict with the arguments of create, got {shorten(values)}"
            raise ValidationError(message, where=self.record.__name__)
        fields = attrs.fields_dict(self.record)
        known = (fields.keys() - _MANAGED) | {"id", "created_at"}
        for name in values:
            if name not in known:
                message = f"unknown field {shorten(name)}. {nearest(str(name), known)}"
                raise ValidationError(message, where=self.record.__name__)
        for name, field in fields.items():
            if field.default is attrs.NOTHING and name not in values:
                raise ValidationError("is missing", where=self.record.__name__, field=name)
        return self.record(**values)

    async def _create(self, **given: Any) -> R:
        """Create one record from the arguments of ``create``; those that are None take their default."""
        (made,) = await self.create_many([{name: value for name, value in given.items() if value is not None}])
        return made

    async def _insert(self, records: Sequence[R]) -> builtins.list[R]:
        return await self._write(await self._creations(records))

    async def _write(self, creations: Sequence[Edit]) -> builtins.list[R]:
        rows = [edit.after for edit in creations if edit.after is not None]
        written = await self._session.edit([*self._requirements(rows), *creations])
        return [self._load(row) for row in written]

    async def _creations(self, records: Sequence[R]) -> builtins.list[Edit]:
        """Return the edits that write new records."""
        return [Edit(self.table, record.id, None, self._row(record)) for record in records]

    def _row(self, record: R) -> Row:
        row = {column.name: getattr(record, column.name) for column in self.table.columns}
        return {name: value.value if isinstance(value, enum.Enum) else value for name, value in row.items()}

    def _requirements(self, rows: Sequence[Row]) -> builtins.list[Edit]:
        """Return edits that hold only where the records exist that the rows refer to, unless they come with them."""
        own = {row["id"] for row in rows}
        needed = {
            (column.references, row[column.name]): None
            for row in rows
            for column in self.table.columns
            if column.references and row.get(column.name) is not None
        }
        return [Edit(TABLES[name], id) for name, id in needed if not (name == self.table.name and id in own)]


class Repository(AppendRepository[R]):
    """Reads and writes records of one kind."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Columns that a record keeps for its life."""

    async def update(self, target: R | str, **changes: Any) -> R:
        """Set fields of a record, each as a whole.

        Args:
            target: A record as it was read: the update holds only if nobody has changed it since. Or an id: the
                fields are set, whatever else has changed.
            **changes: The fields and their new values.

        Returns:
            The record as it is now. Where nothing is different, nothing is written.

        Raises:
            NotFoundError: There is no such record.
            ConflictError: The given record has changed since it was read.
            ValidationError: An unknown field, one that cannot be changed, or a value that does not fit.
            AlreadyExistsError: Another record has the unique key.
        """
        changeable = attrs.fields_dict(self.record).keys() - _MANAGED - self.fixed
        for name in changes:
            if name not in changeable:
                known = nearest(name, changeable)
                fixed = name in attrs.fields_dict(self.record)
                message = f"cannot be changed. {known}" if fixed else f"unknown field. {known}"
                raise ValidationError(message, where=self.record.__name__, field=name)
        id, revision = self._target(target)
        if revision is not None:
            return await self._session.retry_on_model_change(lambda: self._update(id, changes, revision))
        return await self._session.retry(lambda: self._update(id, changes, None))

    def _target(self, target: R | str) -> tuple[str, int | None]:
        """Return the id of a record, and its revision where a record is given."""
        if isinstance(target, self.record):
            return target.id, target.revision
        if isinstance(target, Record):
            message = f"expected a {self.record.__name__} or its id, got a {type(target).__name__}"
            raise ValidationError(message, where=self.table.name)
        return check_id(target, self.table.name), None

    async def _update(self, id: str, changes: Mapping[str, Any], revision: int | None) -> R:
        (row,) = await self._session.get(self.table, [id])
        if row is None:
            raise NotFoundError(self.table.name, id)
        if revision not in (None, row["revision"]):
            raise ConflictError(self.table.name, id, revision)
        edits = await self._change(row, changes)
        if not edits:
            return self._load(row)
        written = await self._session.edit(edits)
        return self._load(written[-1])

    async def _change(self, row: Row, changes: Mapping[str, Any]) -> builtins.list[Edit]:
        """Return the edits that set some fields of a stored record, its own last; none where nothing is different."""
        before = self._load(row)
        after = attrs.evolve(before, **changes)
        if not any(differs(value, row[name]) for name, value in self._row(after).items()):
            return []
        after = attrs.evolve(after, revision=before.revision + 1, updated_at=utc_now())
        edit = await self._edit_of(row, self._row(after))
        referring = {"id": before.id, **{name: getattr(after, name) for name in changes}}
        return [*self._requirements([referring]), edit]

    async def _edit_of(self, before: Row, after: Row) -> Edit:
        """Return the edit that changes a record."""
        return Edit(self.table, before["id"], before, after)

    async def delete(self, target: R | str, *, cascade: bool = False) -> dict[str, int]:
        """Delete a record.

        Args:
            target: A record as it was read: it is deleted only if nobody has changed it since. Or an id.
            cascade: Whether to delete everything that belongs to it as well, all in one commit.

        Returns:
            How many records of each table were deleted; empty where there was no such record.

        Raises:
            ReferencedError: Other records belong to it, and ``cascade`` was not given. Nothing was deleted.
            ConflictError: The given record has changed since it was read.
        """
        id, revision = self._target(target)
        if revision is not None:
            return await self._session.retry_on_model_change(lambda: self._delete(id, revision, cascade=cascade))
        return await self._session.retry(lambda: self._delete(id, None, cascade=cascade))

    async def _delete(self, id: str, revision: int | None, *, cascade: bool) -> dict[str, int]:
        (row,) = await self._session.get(self.table, [id])
        if row is None:
            return {}
        if revision not in (None, row["revision"]):
            raise ConflictError(self.table.name, id, revision)
        edits, vacant = await self._below(id)
        if edits and not cascade:
            raise ReferencedError(self.table.name, id, _count(edits))
        edits = [Edit(self.table, id, row, None), *edits]
        # What was added below since we looked makes the batch fail, and the look is repeated.
        await self._session.edit([*edits, *vacant])
        return _count(edits)

    async def _below(self, id: str) -> tuple[builtins.list[Edit], builtins.list[CheckNone]]:
        """Find what belongs to a record, and to what belongs to it, level by level.

        Returns:
            The deletions, and the checks that nothing else belongs to any of them.
        """
        found: dict[tuple[str, str], Edit] = {}
        vacant: builtins.list[CheckNone] = []
        level = {self.table.name: [id]}
        while level:
            lower: dict[str, builtins.list[str]] = {}
            for name, ids in level.items():
                for table, column in _REFERRING[name]:
                    where = Field(column).in_(ids)
                    vacant.append(CheckNone(table, where))
                    for row in await self._session.find(table, where):
                        key = (table.name, row["id"])
                        if key not in found and key != (self.table.name, id):
                            found[key] = Edit(table, row["id"], row, None)
                            lower.setdefault(table.name, []).append(row["id"])
            level = lower
        return list(found.values()), vacant


_REFERRING: Final = {
    name: [(table, column.name) for table in TABLES.values() for column in table.columns if column.references == name]
    for name in TABLES
}
"""For each table, the tables and columns that refer to it."""


def _count(edits: Iterable[Edit]) -> dict[str, int]:
    return dict(Counter(edit.table.name for edit in edits))


def active(where: Filter, *, include_inactive: bool) -> Filter:
    """Narrow a filter to records that were not switched off, unless those are wanted, too."""
    return where if include_inactive else where & (Field("is_active") == True)

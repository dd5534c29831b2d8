"""Repositories that create and read records, and never change them."""

from __future__ import annotations

import builtins
import enum
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

from pattern_core.abc import Row
from pattern_core.errors import FilterError, NotFoundError, ValidationError, nearest, shorten
from pattern_core.filters import And, Field, Filter
from pattern_core.models import Page, Record
from pattern_core.schema import TABLES, Table
from pattern_core.sessions.edits import Edit
from pattern_core.sessions.session import Session
from pattern_core.support.validators import check_id

from .paging import cursor_after, parse_order, resume

__all__ = ["MANAGED", "PAGE_SIZE", "AppendRepository", "active", "both", "check_limit"]

R = TypeVar("R", bound=Record)

PAGE_SIZE: Final = 100
MANAGED: Final = frozenset({"id", "revision", "created_at", "updated_at", "embedding"})
"""The fields that the library sets."""


class AppendRepository(Generic[R]):
    """Creates and reads records of one kind.

    Args:
        session: The session to read and write through.
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
            ValidationError: A value is not valid; see also the errors of `create`. Nothing was written.
        """
        made = self._make_many(records)
        return await self._insert(made) if made else []

    async def get(self, id: str) -> R:
        """Return a record that must exist.

        Args:
            id: The id of the record.

        Returns:
            The record.

        Raises:
            NotFoundError: There is no such record.
        """
        found = await self.find(id)
        if found is None:
            raise NotFoundError(self.table.name, id)
        return found

    async def get_many(self, ids: Iterable[str]) -> builtins.list[R]:
        """Return records that must exist, with one read.

        Args:
            ids: The ids, in any order, repeats allowed.

        Returns:
            The records, in the order of the ids.

        Raises:
            NotFoundError: One of them does not exist.
        """
        wanted = [check_id(id, self.table.name) for id in ids]
        found = []
        for id, row in zip(wanted, await self._session.get(self.table, wanted) if wanted else [], strict=True):
            if row is None:
                raise NotFoundError(self.table.name, id)
            found.append(self._load(row))
        return found

    async def find_many(self, ids: Iterable[str]) -> builtins.list[R]:
        """Return the records that exist among some ids, with one read.

        Args:
            ids: The ids, in any order, repeats allowed.

        Returns:
            The records, in the order of the ids; a missing one is left out.
        """
        wanted = [check_id(id, self.table.name) for id in ids]
        rows = await self._session.get(self.table, wanted) if wanted else []
        return [self._load(row) for row in rows if row is not None]

    async def find(self, id: str) -> R | None:
        """Return a record that may exist.

        Args:
            id: The id of the record.

        Returns:
            The record; None if there is none.
        """
        check_id(id, self.table.name)
        (row,) = await self._session.get(self.table, [id])
        return None if row is None else self._load(row)

    async def list(
        self,
        where: Filter | None = None,
        *,
        order: str | Sequence[str] = "created_at",
        limit: int = PAGE_SIZE,
        cursor: str | None = None,
        **equals: Any,
    ) -> Page[R]:
        """Return a page of records.

        Args:
            where: A filter, such as ``Field("name") == value``; None for all records.
            order: The columns to sort by, with a minus for descending order. Null comes first, ties sort by id.
            limit: The most records to return.
            cursor: The ``cursor`` of the page before. Records that are added or deleted meanwhile do not shift the
                others: none of them repeats or is skipped.
            **equals: Fields and the values that they must have: ``agent_id=agent.id``.

        Returns:
            The records, and the cursor for the next page.

        Raises:
            FilterError: An unknown field, an operator or value that does not suit it, or a cursor of another order.
            ValidationError: The limit is below 1.
        """
        check_limit(limit, self.table.name)
        where = self._where(where, equals)
        keys = parse_order(self.table, order)
        if cursor is not None:
            where = both(where, resume(self.table, keys, cursor))
        # One more than the limit tells whether there is a next page.
        rows = await self._session.find(self.table, where, order=keys, limit=limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(tuple(self._load(row) for row in rows), cursor_after(keys, rows[-1]) if more else None)

    async def iterate(
        self,
        where: Filter | None = None,
        *,
        order: str | Sequence[str] = "created_at",
        page: int = PAGE_SIZE,
        **equals: Any,
    ) -> AsyncIterator[R]:
        """Iterate over records, page by page.

        Args:
            where: A filter; None for all records.
            order: The columns to sort by, as for `list`.
            page: How many records to read at a time.
            **equals: Fields and the values that they must have, as for `list`.

        Yields:
            The records, in order.
        """
        cursor: str | None = None
        while True:
            found = await self.list(where, order=order, limit=page, cursor=cursor, **equals)
            for record in found:
                yield record
            cursor = found.cursor
            if cursor is None:
                return

    async def count(self, where: Filter | None = None, **equals: Any) -> int:
        """Count records.

        Args:
            where: A filter; None for all records.
            **equals: Fields and the values that they must have, as for `list`.

        Returns:
            The number of records.

        Raises:
            FilterError: An unknown field, or an operator or value that does not suit it.
        """
        return await self._session.count(self.table, self._where(where, equals))

    def _where(self, where: Filter | None, equals: Mapping[str, Any]) -> Filter | None:
        """Return the filter of a call, checked against the table."""
        names = [column.name for column in self.table.columns]
        for name in equals:
            if name not in names:
                message = f"unknown field or argument {shorten(name)}. {nearest(name, names)}"
                raise FilterError(message, where=self.table.name)
        parts = [Field(name) == value for name, value in equals.items()]
        self.table.check_filter(where)
        self.table.check_filter(And(tuple(parts)))
        return And((*([] if where is None else [where]), *parts)) if parts else where

    def _load(self, row: Row) -> R:
        return self.record(**row)

    def _make_many(self, records: Iterable[Mapping[str, Any]]) -> builtins.list[R]:
        if isinstance(records, Mapping | str) or not isinstance(records, Iterable):
            message = f"expected a list with a dict for each record, got {shorten(records)}"
            raise ValidationError(message, where=self.table.name)
        return [self._make(values) for values in records]

    def _make(self, values: Mapping[str, Any]) -> R:
        """Return a new record with the values that a caller gave."""
        if not isinstance(values, Mapping):
            message = f"expected a dict with the arguments of create, got {shorten(values)}"
            raise ValidationError(message, where=self.record.__name__)
        fields = attrs.fields_dict(self.record)
        known = (fields.keys() - MANAGED) | {"id", "created_at"}
        for name in values:
            if name not in known:
                message = f"unknown field {shorten(name)}. {nearest(str(name), known)}"
                raise ValidationError(message, where=self.record.__name__)
        for name, field in fields.items():
            if field.default is attrs.NOTHING and name not in values:
                raise ValidationError("is missing", where=self.record.__name__, field=name)
        return self.record(**values)

    async def _create(self, **given: Any) -> R:
        """Create one record from the arguments of ``create``; an argument of None takes the default."""
        (made,) = await self.create_many([{name: value for name, value in given.items() if value is not None}])
        return made

    async def _insert(self, records: Sequence[R]) -> builtins.list[R]:
        return await self._write(await self._creations(records))

    async def _write(self, creations: Sequence[Edit]) -> builtins.list[R]:
        rows = [edit.after for edit in creations if edit.after is not None]
        written = await self._session.edit([*self._requirements(rows), *creations])
        return [self._load(row) for row in written]

    async def _creations(self, records: Sequence[R]) -> builtins.list[Edit]:
        """Return the edits that create records."""
        return [Edit(self.table, record.id, None, self._row(record)) for record in records]

    def _row(self, record: R) -> Row:
        row = {column.name: getattr(record, column.name) for column in self.table.columns}
        return {name: value.value if isinstance(value, enum.Enum) else value for name, value in row.items()}

    def _requirements(self, rows: Sequence[Row]) -> builtins.list[Edit]:
        """Return edits that fail unless the records exist that rows refer to; rows may also refer to each other."""
        own = {row["id"] for row in rows}
        needed = {
            (column.references, row[column.name]): None
            for row in rows
            for column in self.table.columns
            if column.references and row.get(column.name) is not None
        }
        return [Edit(TABLES[name], id) for name, id in needed if not (name == self.table.name and id in own)]


def active(where: Filter | None, *, include_inactive: bool) -> Filter | None:
    """Return a filter narrowed to active records, unless inactive ones are included."""
    return where if include_inactive else both(where, Field("is_active") == True)


def both(where: Filter | None, other: Filter) -> Filter:
    """Return the filter that is true if two are; None counts as true."""
    return other if where is None else where & other


def check_limit(limit: object, where: str) -> None:
    """Raise `ValidationError` unless a limit is a whole number of at least 1."""
    if not isinstance(limit, int) or limit < 1:
        raise ValidationError(f"limit must be at least 1, got {shorten(limit)}", where=where)

"""What all repositories do: create, read, list and count; and what most do: update and delete."""

from __future__ import annotations

import builtins
import enum
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

from pattern_core.abc import Row
from pattern_core.clock import utc_now
from pattern_core.errors import ConflictError, NotFoundError, ReferencedError, ValidationError, nearest, shorten
from pattern_core.filters import Field, Filter
from pattern_core.models import Page, Record
from pattern_core.paging import cursor_after, parse_order, resume
from pattern_core.schema import TABLES, Table
from pattern_core.session import Edit, Session, differs
from pattern_core.validators import check_id

__all__ = ["ATTEMPTS", "PAGE", "AppendRepository", "Repository"]

R = TypeVar("R", bound=Record)

PAGE: Final = 100
ATTEMPTS: Final = 20
"""How often an update of a record by id is repeated where others change the record at the same time."""

_MANAGED: Final = frozenset({"id", "revision", "created_at", "updated_at", "embedding", "embedding_model"})


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
        made = [self._make(values) for values in records]
        return await self._insert(made) if made else []

    async def get(self, id: str, *, with_embedding: bool = False) -> R:
        """Read a record that must exist.

        Args:
            id: Its id.
            with_embedding: Whether to read its vector as well.

        Returns:
            The record.

        Raises:
            NotFoundError: There is none.
        """
        found = await self.find(id, with_embedding=with_embedding)
        if found is None:
            raise NotFoundError(self.table.name, id)
        return found

    async def find(self, id: str, *, with_embedding: bool = False) -> R | None:
        """Read a record that may exist.

        Args:
            id: Its id.
            with_embedding: Whether to read its vector as well.

        Returns:
            The record, or None.
        """
        check_id(id, self.table.name)
        (row,) = await self._session.get(self.table, [id], vectors=with_embedding)
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
            cursor: The ``cursor`` of the page before. Records that are written meanwhile shift nothing: none comes
                twice, and none that was there all the time is passed over.

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

    def _make(self, values: Mapping[str, Any]) -> R:
        """Make a new record from what a caller gave."""
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
        rows = await self._rows(records)
        await self._session.edit([*self._requirements(rows), *(Edit(self.table, row["id"], None, row) for row in rows)])
        return [self._load(self._without_vector(row)) for row in rows]

    async def _rows(self, records: Sequence[R]) -> builtins.list[Row]:
        """Turn new records into rows."""
        return [self._row(record) for record in records]

    def _row(self, record: R) -> Row:
        row = {column.name: getattr(record, column.name) for column in self.table.columns}
        return {name: value.value if isinstance(value, enum.Enum) else value for name, value in row.items()}

    def _without_vector(self, row: Row) -> Row:
        vector = self.table.vector
        return {name: value for name, value in row.items() if vector is None or name != vector.name}

    def _requirements(self, rows: Iterable[Row]) -> builtins.list[Edit]:
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
        if isinstance(target, Record):
            return await self._update(target.id, changes, target.revision)
        check_id(target, self.table.name)
        return await self._session.retry.run(lambda: self._update(target, changes, None), attempts=ATTEMPTS)

    async def _update(self, id: str, changes: Mapping[str, Any], revision: int | None) -> R:
        (row,) = await self._session.get(self.table, [id])
        if row is None:
            raise NotFoundError(self.table.name, id)
        if revision not in (None, row["revision"]):
            raise ConflictError(self.table.name, id, revision)
        edit = await self._change(row, changes)
        if edit is None or edit.after is None:
            return self._load(row)
        referring = {"id": id, **{name: edit.after[name] for name in changes}}
        await self._session.edit([*self._requirements([referring]), edit])
        return self._load(self._without_vector(edit.after))

    async def _change(self, row: Row, changes: Mapping[str, Any]) -> Edit | None:
        """Return the edit that sets some fields of a stored record; None where nothing is different."""
        before = self._load(row)
        after = attrs.evolve(before, **changes)
        if not any(differs(value, row[name]) for name, value in self._without_vector(self._row(after)).items()):
            return None
        after = attrs.evolve(after, revision=before.revision + 1, updated_at=utc_now())
        return Edit(self.table, before.id, row, await self._changed_row(before, after))

    async def _changed_row(self, before: R, after: R) -> Row:  # noqa: ARG002 - the embedded repositories need it
        """Turn a changed record into a row; the vector is in it only where it is new."""
        return self._without_vector(self._row(after))

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
        id = target.id if isinstance(target, Record) else check_id(target, self.table.name)
        (row,) = await self._session.get(self.table, [id])
        if row is None:
            return {}
        if isinstance(target, Record) and row["revision"] != target.revision:
            raise ConflictError(self.table.name, id, target.revision)
        edits = {(self.table.name, id): Edit(self.table, id, row, None, any_revision=not isinstance(target, Record))}
        below = await self._below(self.table, [id])
        if below and not cascade:
            by: dict[str, int] = {}
            for name, _ in below:
                by[name] = by.get(name, 0) + 1
            raise ReferencedError(self.table.name, id, by)
        edits |= {key: edit for key, edit in below.items() if key not in edits}
        await self._session.edit(list(edits.values()))
        if cascade:  # a record may have been added below between the look and the commit; none can be any more
            late = {key: edit for key, edit in (await self._below(self.table, [id])).items() if key not in edits}
            if late:
                await self._session.edit(list(late.values()))
                edits |= late
        counts: dict[str, int] = {}
        for name, _ in edits:
            counts[name] = counts.get(name, 0) + 1
        return counts

    async def _below(self, table: Table, ids: Sequence[str]) -> dict[tuple[str, str], Edit]:
        """Find everything that belongs to some records, and to what belongs to them."""
        found: dict[tuple[str, str], Edit] = {}
        for below in TABLES.values():
            for column in below.columns:
                if column.references != table.name:
                    continue
                rows = await self._session.find(below, Field(column.name).in_(ids))
                new = {(below.name, row["id"]): Edit(below, row["id"], row, None, any_revision=True) for row in rows}
                found |= new
                if new:
                    found |= await self._below(below, [id for _, id in new])
        return found

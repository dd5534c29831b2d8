"""Repositories that create, read, update and delete records."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import attrs

from pattern_core.abc import Row
from pattern_core.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ReferencedError,
    ValidationError,
    nearest,
)
from pattern_core.models import Record
from pattern_core.sessions.edits import Edit, differs
from pattern_core.support.clock import utc_now
from pattern_core.support.validators import check_id

from .append import MANAGED, AppendRepository
from .dependents import find_dependents

__all__ = ["Repository"]

R = TypeVar("R", bound=Record)


class Repository(AppendRepository[R]):
    """Creates, reads, updates and deletes records of one kind."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Columns that never change after creation."""

    async def update(self, target: R | str, **changes: Any) -> R:
        """Set fields of a record, each as a whole.

        Args:
            target: A record as it was read: the update fails if the record has changed since. Or an id: the fields are
                set whatever else has changed.
            **changes: The fields and their new values.

        Returns:
            The record after the update. If nothing differs, nothing is written.

        Raises:
            NotFoundError: There is no such record.
            ConflictError: The given record has changed since it was read.
            ValidationError: A field is unknown or cannot be changed, or a value is not valid.
            AlreadyExistsError: Another record has the unique key.
        """
        changeable = attrs.fields_dict(self.record).keys() - MANAGED - self.fixed
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

    async def delete(self, target: R | str, *, cascade: bool = False) -> dict[str, int]:
        """Delete a record.

        Args:
            target: A record as it was read: it is deleted only if it has not changed since. Or an id.
            cascade: Whether to delete everything that belongs to it as well, all in one commit.

        Returns:
            How many records of each table were deleted; empty if there was no such record.

        Raises:
            ReferencedError: Other records belong to it, and ``cascade`` is False. Nothing was deleted.
            ConflictError: The given record has changed since it was read.
        """
        id, revision = self._target(target)
        if revision is not None:
            return await self._session.retry_on_model_change(lambda: self._delete(id, revision, cascade=cascade))
        return await self._session.retry(lambda: self._delete(id, None, cascade=cascade))

    async def _ensure(self, find: Callable[[], Awaitable[R | None]], create: Callable[[], Awaitable[R]]) -> R:
        """Return the record that is there, or create it; others may create it at the same time."""

        async def work() -> R:
            found = await find()
            if found is not None:
                return found
            try:
                return await create()
            except AlreadyExistsError as error:
                if await find() is None:  # the id belongs to a record with another key
                    raise
                raise ConflictError(self.table.name, str(error.key), None) from error

        return await self._session.retry(work)

    def _target(self, target: R | str) -> tuple[str, int | None]:
        """Return the id of a record, and its revision if a record is given."""
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
        """Return the edits that set fields of a stored record, its own last; none if nothing differs."""
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

    async def _delete(self, id: str, revision: int | None, *, cascade: bool) -> dict[str, int]:
        (row,) = await self._session.get(self.table, [id])
        if row is None:
            return {}
        if revision not in (None, row["revision"]):
            raise ConflictError(self.table.name, id, revision)
        edits, checks = await find_dependents(self._session, self.table, id)
        if edits and not cascade:
            raise ReferencedError(self.table.name, id, _count(edits))
        edits = [Edit(self.table, id, row, None), *edits]
        # The checks fail if another dependent was added meanwhile; then the deletion is retried.
        await self._session.edit([*edits, *checks])
        return _count(edits)


def _count(edits: Iterable[Edit]) -> dict[str, int]:
    return dict(Counter(edit.table.name for edit in edits))

"""The writes and checks of a batch, which `Storage.commit` applies all or nothing."""

from __future__ import annotations

import attrs

from pattern_core.filters import Filter
from pattern_core.schema import Table

from .base import Row

__all__ = ["Append", "Check", "CheckNone", "Delete", "Insert", "Patch", "Put", "Write"]


@attrs.frozen
class Insert:
    """Write a new record. `AlreadyExistsError` if the id or a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Append:
    """Write a new record, numbered by the storage: core writes the commit log with it.

    The storage sets the column ``sequence``: 1 in an empty table, else one more than the greatest in the table. Numbers
    follow the order in which commits become visible. A storage that cannot number commits without making them wait for
    each other may number those of each ``writer``, and then implements `Storage.changes_since` itself.

    Attributes:
        table: The table.
        row: Every column; ``sequence`` is 0.
    """

    table: Table
    row: Row


@attrs.frozen
class Put:
    """Write a whole record, new or in place of the one with its id. `AlreadyExistsError` if a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Patch:
    """Set some columns of a record, each as a whole. `NotFoundError` if it is missing and no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        changes: The columns to set; None sets a column to null.
        revision: The expected revision, else `ConflictError`; None for any.
        partition: The record's partition, for the commit log; None if the writer does not know it.
    """

    table: Table
    id: str
    changes: Row
    revision: int | None = None
    partition: str | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Delete:
    """Delete a record. A missing record is no error if no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        revision: The expected revision, else `ConflictError`; None for any.
        partition: The record's partition, for the commit log; None if the writer does not know it.
    """

    table: Table
    id: str
    revision: int | None = None
    partition: str | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Check:
    """Write nothing; the batch fails unless a record is as expected.

    Attributes:
        table: The table.
        id: The record.
        revision: None: the record must exist, else `NotFoundError`. 0: it must not exist, else `ConflictError`. Any
            other number: it must have that revision, else `ConflictError`.
    """

    table: Table
    id: str
    revision: int | None = None


@attrs.frozen
class CheckNone:
    """Write nothing; the batch fails with `ConflictError` if a record satisfies a filter.

    It sees the writes before it in the batch. After deletions, it ensures that nothing was added meanwhile.

    Attributes:
        table: The table.
        where: The filter.
    """

    table: Table
    where: Filter


Write = Insert | Append | Put | Patch | Delete | Check | CheckNone

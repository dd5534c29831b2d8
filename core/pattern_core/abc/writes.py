"""The entries of a batch: what `Storage.commit` applies, all or nothing."""

from __future__ import annotations

import attrs

from pattern_core.filters import Filter
from pattern_core.schema import Table

from .base import Row

__all__ = ["Check", "CheckNone", "Delete", "Insert", "Patch", "Put", "Write"]


@attrs.frozen
class Insert:
    """Write a new record. `AlreadyExistsError` where the id or a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Put:
    """Write a whole record, new or over the one with its id. `AlreadyExistsError` where a unique key is taken.

    Attributes:
        table: The table.
        row: Every column.
    """

    table: Table
    row: Row


@attrs.frozen
class Patch:
    """Set some columns of a record, each as a whole. `NotFoundError` where it is missing and no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        changes: The columns to set; None makes one null.
        revision: The revision that the record must have, else `ConflictError`; None for any.
    """

    table: Table
    id: str
    changes: Row
    revision: int | None = None


@attrs.frozen
class Delete:
    """Remove a record; a missing one is no error where no revision is expected.

    Attributes:
        table: The table.
        id: The record.
        revision: The revision that the record must have, else `ConflictError`; None for any.
    """

    table: Table
    id: str
    revision: int | None = None


@attrs.frozen
class Check:
    """Write nothing, but let the batch fail unless a record is as expected.

    Attributes:
        table: The table.
        id: The record.
        revision: None: it must exist, else `NotFoundError`. 0: it must not exist, else `ConflictError`. Any other:
            it must have that revision, else `ConflictError`.
    """

    table: Table
    id: str
    revision: int | None = None


@attrs.frozen
class CheckNone:
    """Write nothing, but let the batch fail with `ConflictError` if a record satisfies a filter.

    It sees the writes before it in the batch: behind deletions, it makes sure that nothing was added meanwhile.

    Attributes:
        table: The table.
        where: The filter.
    """

    table: Table
    where: Filter


Write = Insert | Put | Patch | Delete | Check | CheckNone

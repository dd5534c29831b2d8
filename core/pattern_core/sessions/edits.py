"""Edits: changes of one record each.

An `Edit` knows a record before and after. Two things follow from it: the write with its precondition, and what a read
in the same transaction sees.
"""

from __future__ import annotations

from typing import Any

import attrs

from pattern_core.abc import Check, Delete, Insert, Patch, Row, Write
from pattern_core.embedding.chunks import EmbeddedText
from pattern_core.schema import Table

__all__ = ["Edit", "differs"]


@attrs.frozen
class Edit:
    """A change of one record.

    Attributes:
        table: The table.
        id: The record.
        before: Its columns as they were read; None for a new record.
        after: Its columns as they shall be; None to delete it. Without before and after, nothing is written, but the
            record must exist. If both are one object, nothing is written, but the record must be as it was read.
        embedded: The embedded text, if the text is new.
    """

    table: Table
    id: str
    before: Row | None = None
    after: Row | None = None
    embedded: EmbeddedText | None = None

    def write(self) -> Write:
        """Return the write. Its precondition is the revision that was read."""
        if self.before is None:
            return Check(self.table, self.id) if self.after is None else Insert(self.table, self.after)
        revision = int(self.before["revision"])
        if self.after is self.before:
            return Check(self.table, self.id, revision)
        if self.after is None:
            return Delete(self.table, self.id, revision, self._partition(self.before))
        before = self.before
        changes = {name: new for name, new in self.after.items() if differs(new, before[name])}
        return Patch(self.table, self.id, changes, revision, self._partition(before))

    def _partition(self, row: Row) -> str | None:
        return row[self.table.partition] if self.table.partition else None


def differs(new: Any, old: Any) -> bool:
    """Return whether two values of a column differ, by type or value."""
    if new is old:
        return False
    if type(new) is not type(old):
        return True  # 1, 1.0 and True are equal, but three JSON values
    if isinstance(new, dict):
        return new.keys() != old.keys() or any(differs(value, old[key]) for key, value in new.items())
    if isinstance(new, list):
        return len(new) != len(old) or any(map(differs, new, old))
    return bool(new != old)

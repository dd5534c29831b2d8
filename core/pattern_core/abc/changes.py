"""Positions in the commit log of a database, and the changes after them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Self

import attrs

from pattern_core.errors import ValidationError, shorten

from .base import Row

__all__ = ["Change", "Changes", "Commit", "Position", "encode_changes"]


@attrs.frozen
class Position:
    """A position in a commit log: just after one commit. ``str`` makes a text of it, and `parse` reads that.

    Attributes:
        sequence: How many commits the log has counted up to here; 0 before the first one.
        token: Identifies the commit before the position, so that the log of another database, of an older copy of the
            files, or of a restored database is recognized. Empty before the first commit.
    """

    sequence: int
    token: str = ""

    def __str__(self) -> str:
        return f"{self.sequence}.{self.token}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that ``str`` made a text of; raise `ValidationError` for any other text."""
        sequence, dot, token = text.partition(".")
        if not dot or not sequence.isascii() or not sequence.isdecimal() or bool(token) != bool(int(sequence)):
            message = f"expected a position as `db.position` and `db.changes` give it, got {shorten(text)}"
            raise ValidationError(message, field="since")
        return cls(int(sequence), token)


@attrs.frozen
class Change:
    """A record that a commit has changed.

    Attributes:
        table: The name of its table.
        id: The record.
        partition: The value of its partition column; None if its table has none, or the writer did not know it.
        kind: ``create``, ``update`` or ``delete``; ``put`` if it was written whole, new or not.
        revision: The revision after the change; of a deleted record the last one. 0 if the writer did not know it.
    """

    table: str
    id: str
    partition: str | None
    kind: str
    revision: int


@attrs.frozen
class Commit:
    """A commit in the log.

    Attributes:
        position: The position after it.
        writer: The `Storage.writer` of the object that committed.
        committed_at: When it was made, by the clock of its writer.
        changes: The records that it changed, in the order of the writes.
    """

    position: Position
    writer: str
    committed_at: datetime
    changes: tuple[Change, ...]

    @classmethod
    def from_row(cls, row: Row, position: Position | None = None) -> Self | None:
        """Return the commit that a row of the log describes; None if the row says that everything may have changed.

        Args:
            row: The row.
            position: The position after it; None if the row's sequence counts all commits.
        """
        if not row["changes"]:
            return None
        changes = [
            Change(table, id, partition, kind, revision)
            for table, found in json.loads(row["changes"])
            for id, partition, kind, revision in found
        ]
        here = position or Position(row["sequence"], row["id"])
        return cls(here, row["writer"], row["committed_at"], tuple(changes))


def encode_changes(changes: list[Change]) -> str:
    """Return the text by which a row of the log describes changes; changes of one table in a row stand together."""
    groups: list[tuple[str, list[Any]]] = []
    for each in changes:
        if not groups or groups[-1][0] != each.table:
            groups.append((each.table, []))
        groups[-1][1].append((each.id, each.partition, each.kind, each.revision))
    return json.dumps(groups, ensure_ascii=False, separators=(",", ":"))


@attrs.frozen
class Changes:
    """The commits after a position.

    Attributes:
        commits: The commits. Those that changed the same record are in the order in which they took effect.
        position: The position after them.
        more: Whether the log may hold further commits.
    """

    commits: tuple[Commit, ...]
    position: Position
    more: bool = False

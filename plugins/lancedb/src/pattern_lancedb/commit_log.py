"""The commit log: numbers its rows, and reads the newest ones from memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import pyarrow.compute as pc

from pattern_core.abc import Append, Changes, Check, CheckNone, Commit, Delete, Insert, Patch, Position, Put, Write
from pattern_core.schema import COMMIT_LOG

from .snapshot import Snapshot
from .values import decode

__all__ = ["NumberedWrite", "newest_position", "newest_state", "number_rows", "recent_changes"]

NumberedWrite: TypeAlias = Insert | Put | Patch | Delete | Check | CheckNone
"""Any write but an `Append`, which `number_rows` turns into a `Put`."""

_NEWEST: Final = "commit_log"
"""The entry of the manifest's state that holds the newest position, as ``[sequence, token]``."""


def newest_position(snapshot: Snapshot) -> Position:
    """Return the newest position in the log."""
    return Position(*snapshot.state.get(_NEWEST, (0,)))


def newest_state(position: Position | None) -> dict[str, Any]:
    """Return the change of the state that records the newest position; None for an empty log."""
    return {_NEWEST: None if position is None else [position.sequence, position.token]}


def number_rows(snapshot: Snapshot, batch: Sequence[Write]) -> tuple[list[NumberedWrite], Position | None]:
    """Return a batch whose appended rows have their numbers, and the position after it; None if it appends nothing."""
    position, writes = newest_position(snapshot), list[NumberedWrite]()
    for write in batch:
        if isinstance(write, Append):
            position = Position(position.sequence + 1, write.row["id"])
            writes.append(Put(write.table, write.row | {"sequence": position.sequence}))  # nothing has this id to check
        else:
            writes.append(write)
    return writes, position if position != newest_position(snapshot) else None


def recent_changes(snapshot: Snapshot, position: Position | None, limit: int) -> Changes | None:
    """Return the commits after a position from the memtable; None if it does not hold the position."""
    rows = snapshot.memtable(COMMIT_LOG.name).rows
    if rows is None or position is None:
        return None
    later = rows.filter(pc.field("sequence") >= position.sequence)
    found = sorted(decode(COMMIT_LOG, later, later.column_names), key=lambda row: int(row["sequence"]))
    if not found or found[0]["id"] != position.token:
        return None
    commits = [commit for row in found[1 : limit + 1] if (commit := Commit.from_row(row)) is not None]
    if len(commits) < len(found[1 : limit + 1]):
        return None
    return Changes(tuple(commits), commits[-1].position if commits else position, more=len(found) > limit)

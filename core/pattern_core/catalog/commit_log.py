"""What each commit adds to the commit log, and what leaves it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from pattern_core.abc import Append, Change, Delete, Insert, Patch, Put, Storage, Write
from pattern_core.abc.changes import encode_changes
from pattern_core.filters import Field
from pattern_core.schema import COMMIT_LOG, TABLES, Order
from pattern_core.support.clock import utc_now

from .tables import generation_number

__all__ = ["FIRST_WITH_LOG", "KEPT_COMMITS", "KEPT_DAYS", "log_reset", "logged", "outdated_entries"]

FIRST_WITH_LOG: Final = 5
"""The first schema version with a commit log."""
KEPT_COMMITS: Final = 20_000
"""How many commits the log keeps."""
KEPT_DAYS: Final = 30
"""For how many days the log keeps a commit."""


def logged(batch: Sequence[Write], writer: str) -> list[Write]:
    """Return a batch with the entry that describes it in the commit log.

    Args:
        batch: The writes.
        writer: The `Storage.writer` of the storage that commits them.

    Returns:
        The writes. The entry is the last of them; there is none if no table of records or vectors changes.
    """
    changes = [change for write in batch if (change := _change(write)) is not None]
    return [*batch, _entry(writer, encode_changes(changes))] if changes else list(batch)


def log_reset(writer: str) -> Append:
    """Return the entry that tells followers that everything may have changed."""
    return _entry(writer, "")


async def outdated_entries(storage: Storage, limit: int) -> list[Delete]:
    """Return the writes that remove entries which the log need not keep. It keeps the newest entry in any case.

    Args:
        storage: The storage.
        limit: The most writes to return.
    """
    newest = await storage.find(COMMIT_LOG, order=[Order("sequence", descending=True)], limit=1)
    if not newest:
        return []
    removable = Field("sequence") < newest[0]["sequence"]  # all but the newest may go
    old = removable & (Field("committed_at") < utc_now() - timedelta(days=KEPT_DAYS))
    rows = await storage.find(COMMIT_LOG, old, limit=limit)
    surplus = await storage.count(COMMIT_LOG) - KEPT_COMMITS
    if not rows and surplus > 0:
        rows = await storage.find(COMMIT_LOG, removable, order=[Order("committed_at")], limit=min(limit, surplus))
    return [Delete(COMMIT_LOG, row["id"]) for row in rows]


def _entry(writer: str, changes: str) -> Append:
    row = {
        "id": uuid.uuid4().hex[:16],
        "revision": 1,
        "sequence": 0,
        "writer": writer,
        "committed_at": utc_now(),
        "changes": changes,
    }
    return Append(COMMIT_LOG, row)


def _change(write: Write) -> Change | None:
    table = write.table
    if table.name not in TABLES and not generation_number(table.name):
        return None
    match write:
        case Insert(_, row) | Put(_, row):
            partition = row[table.partition] if table.partition else None
            kind = "create" if isinstance(write, Insert) else "put"
            return Change(table.name, row["id"], partition, kind, row["revision"])
        case Patch(_, id, changes):
            return Change(table.name, id, write.partition, "update", changes.get("revision", write.revision or 0))
        case Delete(_, id, revision):
            return Change(table.name, id, write.partition, "delete", revision or 0)
        case _:
            return None

"""The feed of changes: what has changed in a database since a position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

from pattern_core.abc import Commit, Position, Storage
from pattern_core.errors import ChangesLostError
from pattern_core.models import Record, RecordChange

from .append import AppendRepository

__all__ = ["read_changes", "read_position"]

_POLL_S: Final = 0.1
"""How long a follower waits before it looks again, in seconds."""
_COMMITS: Final = 200
"""How many commits are read at a time."""


async def read_position(storage: Storage) -> Position:
    """Return the newest position in the commit log."""
    newest = await storage.changes_since(None)
    assert newest is not None  # noqa: S101 - the newest position is always known
    return newest.position


async def read_changes(
    storage: Storage,
    repositories: Iterable[AppendRepository[Any]],
    *,
    since: str | None,
    follow: bool,
    records: bool,
) -> AsyncIterator[RecordChange]:
    """Yield the changes since a position; see `pattern_core.Database.changes`."""
    by_table = {each.table.name: each for each in repositories}
    start = Position.parse(since) if since is not None else None
    position = start or (await read_position(storage) if follow else Position(0))
    while True:
        found = await storage.changes_since(position, limit=_COMMITS)
        if found is None:
            raise ChangesLostError(str(position))
        current = await _records(by_table, found.commits) if records else {}
        for commit in found.commits:
            for change in commit.changes:
                if change.table in by_table:
                    yield RecordChange(
                        table=change.table,
                        id=change.id,
                        kind=change.kind,
                        revision=change.revision,
                        partition=change.partition,
                        committed_at=commit.committed_at,
                        position=str(commit.position),
                        record=current.get((change.table, change.id)),
                    )
        position = found.position
        if not found.more:
            if not follow:
                return
            if not found.commits:
                await asyncio.sleep(_POLL_S)


async def _records(
    by_table: Mapping[str, AppendRepository[Any]], commits: Iterable[Commit]
) -> dict[tuple[str, str], Record]:
    wanted: dict[str, dict[str, None]] = {}
    for change in (change for commit in commits for change in commit.changes):
        if change.table in by_table:
            wanted.setdefault(change.table, {})[change.id] = None
    return {(name, each.id): each for name, ids in wanted.items() for each in await by_table[name].find_many(ids)}

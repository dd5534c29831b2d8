"""A follower of the commit log: knows how far it has read, and returns what others have changed since."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from pattern_core.abc import Change, Position, Storage

__all__ = ["Follower"]


class Follower:
    """Follows what others commit: other processes, and other objects of this one.

    What is kept in memory about a database can so be updated by what has changed, instead of being read again.

    Args:
        storage: The storage. Its own commits are not reported.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._position: Position | None = None

    async def is_behind(self) -> bool:
        """Return whether `catch_up` has something to report."""
        changes, position = await self._read()
        if changes is None or changes:
            return True
        self._position = position
        return False

    @contextlib.asynccontextmanager
    async def catch_up(self) -> AsyncIterator[list[Change] | None]:
        """Report what has changed since the last time. One caller at a time.

        If the body fails or is cancelled, the next call reports the same again.

        Yields:
            The changes, in order; None if anything may have changed: the first time, and if the log cannot tell.
        """
        changes, position = await self._read()
        yield changes
        self._position = position

    async def _read(self) -> tuple[list[Change] | None, Position]:
        found = None if self._position is None else await self._storage.changes_since(self._position)
        if found is None or found.more:  # so far behind that reading everything again is cheaper
            newest = await self._storage.changes_since(None)
            assert newest is not None  # noqa: S101 - the newest position is always known
            return None, newest.position
        own = self._storage.writer
        return [each for commit in found.commits if commit.writer != own for each in commit.changes], found.position

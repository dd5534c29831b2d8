"""Upkeep: moves the log into the Lance tables, indexes, compacts and cleans up, in the background and when asked.

What it costs is bounded. The log is moved in parts of some hundred rows, so that 2,000 single writes make eight
fragments rather than 2,000. A table is compacted, which may rewrite it, once a quarter of it has changed (or, where it
is small, after so many moves); so a row is rewritten a few times in all, however long the database lives. Between two
compactions the scalar indexes are made anew every few moves, for the engine scans what they do not cover.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
import lancedb
from lancedb.index import BTree

from pattern_core.abc import AsyncResource, Detail
from pattern_core.errors import ClosedError

from .head import Head, TableEntry
from .tables import Lance

__all__ = ["Policy", "Upkeep", "compact"]

_LOGGER: Final = logging.getLogger(__name__)
_PAUSE: Final = 5.0
"""Seconds after a failure before the next try."""
_FOREVER: Final = timedelta(days=36500)
_INDEXED_FROM: Final = 1000
"""A table of fewer rows is scanned in less than a millisecond."""


@attrs.frozen
class Policy:
    """When upkeep is due.

    Attributes:
        rows: The log is moved once it holds so many rows,
        size: or so many bytes,
        age: or a document of so many seconds.
        moves: After so many moves into a table its scalar indexes are made anew.
        share: A table is compacted once that share of its rows has changed,
        most_moves: or after so many moves.
        grace: For how many seconds a version that is no longer the newest is kept for those who still read it.
        patience: How many seconds a compaction may take.
    """

    rows: int = 256
    size: int = 4 << 20
    age: float = 600
    moves: int = 2
    share: float = 0.25
    most_moves: int = 32
    grace: float = 600
    patience: float = 3600

    def due_in(self, head: Head) -> float | None:
        """Return after how many seconds the log is to be moved; None where it is empty."""
        if not head.log:
            return None
        if sum(each.rows for each in head.log) >= self.rows or sum(each.size for each in head.log) >= self.size:
            return 0
        return max(0.0, head.log[0].written_at + self.age - time.time())

    def wants_indexes(self, entry: TableEntry) -> bool:
        """Return whether the scalar indexes of a table are to be made anew."""
        return entry.rows >= _INDEXED_FROM and entry.moves - entry.indexed >= self.moves

    def wants_compaction(self, entry: TableEntry) -> bool:
        """Return whether a table is to be compacted."""
        return entry.moves >= self.most_moves or (
            entry.changed >= _INDEXED_FROM and entry.changed >= self.share * entry.rows
        )

    def keeps(self, made: Mapping[int, datetime], version: int, now: datetime) -> timedelta:
        """Return how old the versions may be that a compaction keeps.

        Args:
            made: When each version of the table was made.
            version: The head's. A crash may have left newer ones that were never published.
            now: When the compaction begins; it may end later by as much as `patience`.
        """
        past = [each for each in made.values() if (now - each).total_seconds() >= self.grace]
        return now - min(max(past), made[version]) + timedelta(seconds=self.patience) if past else _FOREVER


class Upkeep(AsyncResource):
    """Keeps the tables of a database in shape. `aclose` stops it, and is to be called before that of the tables.

    Args:
        lance: The tables.
        policy: When what is due.
    """

    def __init__(self, lance: Lance, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.failure = ""
        self._lance = lance
        self._task = asyncio.create_task(self._run())

    async def maintain(self) -> Mapping[str, Detail]:
        """Do all that could ever become due, now, and say what was done."""
        before = (await self._lance.snapshot()).head
        await self._lance.flush()
        compacted = 0
        for name, entry in (await self._lance.snapshot()).head.tables.items():
            if entry.moves:
                await self._compact(name)
                compacted += 1
        await self._lance.sweep()
        return {"moved_rows": sum(each.rows for each in before.log), "compacted_tables": compacted}

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._wait()
                await self._lance.flush()
                await self._tidy()
                self.failure = ""
            except ClosedError:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, upkeep must not end in silence
                self.failure = str(error)
                _LOGGER.warning("upkeep of %s failed, and is tried again: %s", self._lance.place.uri, error)
                await asyncio.sleep(_PAUSE)

    async def _wait(self) -> None:
        """Wait until the log is to be moved."""
        while (rest := self.policy.due_in(self._lance.head)) is None or rest > 0:
            with contextlib.suppress(TimeoutError):  # not wait_for, which may swallow a cancellation (Python 3.11)
                async with asyncio.timeout(rest):
                    await self._lance.grown.wait()
            self._lance.grown.clear()

    async def _tidy(self) -> None:
        for name, entry in (await self._lance.snapshot()).head.tables.items():
            if self.policy.wants_compaction(entry):
                await self._compact(name)
            elif self.policy.wants_indexes(entry):
                await self._lance.rework(name, _index, indexed=True)

    async def _compact(self, name: str) -> None:
        async def work(table: lancedb.AsyncTable, entry: TableEntry) -> None:
            await compact(table, entry, self.policy)
            if entry.rows >= _INDEXED_FROM:
                await _index(table, entry)

        await self._lance.rework(name, work, settled=True)


async def compact(table: lancedb.AsyncTable, entry: TableEntry, policy: Policy = Policy()) -> None:
    """Compact a table, bring its indexes up to date, and remove what only outlived versions need; for `Lance.rework`.

    The engine goes by when a version was made. What counts is when it was followed by the next: the version that was the
    newest at the end of the grace time, and all since, are kept, and with them the head's. The engine cleans up after it
    has compacted, before that can be published, and reckons from then: so it is given time for that.

    Args:
        table: The table, open for writing.
        entry: What the head says of it.
        policy: For how long what is kept.
    """
    now = datetime.now(UTC)
    versions = await table.list_versions()  # type: ignore[no-untyped-call]  # lancedb has left its types out
    made = {each["version"]: each["timestamp"].astimezone(UTC) for each in versions}
    await table.optimize(cleanup_older_than=policy.keeps(made, entry.version, now))


async def _index(table: lancedb.AsyncTable, entry: TableEntry) -> None:
    for column in entry.indexes:
        await table.create_index(column, config=BTree(), replace=True)

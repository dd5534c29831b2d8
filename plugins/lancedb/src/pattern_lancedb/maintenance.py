"""Background maintenance: flushes the write-ahead log (WAL), builds scalar indexes, compacts, and removes old versions.

Its cost is bounded. A flush moves some hundred rows at once, so 2,000 single writes make eight fragments. A compaction,
which may rewrite a table, waits until a quarter of the table has changed, or for a number of flushes if the table is
small; so each row is rewritten a few times in all. Between compactions, scalar indexes are rebuilt after every few
flushes, because the engine scans the rows that they do not cover.
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

from .database import LanceDatabase
from .manifest import Manifest, TableEntry

__all__ = ["Maintenance", "MaintenancePolicy", "compact"]

_LOGGER: Final = logging.getLogger(__name__)
_RETRY_S: Final = 5.0
_FOREVER: Final = timedelta(days=36500)
_INDEXED_ROWS: Final = 1000
"""The engine scans a smaller table in less than a millisecond."""


@attrs.frozen
class MaintenancePolicy:
    """When maintenance is due.

    Attributes:
        rows: Flush the WAL when it holds so many rows,
        nbytes: or so many bytes,
        age_s: or an entry of this age in seconds.
        index_flushes: Rebuild the scalar indexes of a table after so many flushes into it.
        compact_share: Compact a table when this share of its rows has changed,
        compact_flushes: or after so many flushes into it.
        retention_s: How many seconds an outdated version is kept for its readers.
        compaction_s: How many seconds a compaction may take.
    """

    rows: int = 256
    nbytes: int = 4 << 20
    age_s: float = 600
    index_flushes: int = 2
    compact_share: float = 0.25
    compact_flushes: int = 32
    retention_s: float = 600
    compaction_s: float = 3600

    def flush_due_in(self, manifest: Manifest) -> float | None:
        """Return the seconds until the next flush; None if the WAL is empty."""
        if not manifest.wal:
            return None
        if manifest.wal_rows >= self.rows or manifest.wal_bytes >= self.nbytes:
            return 0
        return max(0.0, manifest.wal[0].written_at + self.age_s - time.time())

    def needs_indexes(self, entry: TableEntry) -> bool:
        """Return whether the scalar indexes of a table are due."""
        return entry.rows >= _INDEXED_ROWS and entry.flushes - entry.indexed_flushes >= self.index_flushes

    def needs_compaction(self, entry: TableEntry) -> bool:
        """Return whether the compaction of a table is due."""
        return entry.flushes >= self.compact_flushes or (
            entry.changed_rows >= _INDEXED_ROWS and entry.changed_rows >= self.compact_share * entry.rows
        )

    def retained_age(self, written: Mapping[int, datetime], version: int, now: datetime) -> timedelta:
        """Return the age up to which a compaction keeps versions.

        Args:
            written: When each version of the table was written.
            version: The manifest's version. A crash may have left newer ones that were never published.
            now: When the compaction begins. It may end up to `compaction_s` later.
        """
        past = [each for each in written.values() if (now - each).total_seconds() >= self.retention_s]
        if not past:
            return _FOREVER
        return now - min(max(past), written[version]) + timedelta(seconds=self.compaction_s)


class Maintenance(AsyncResource):
    """Maintains a database in the background. Close it before the database.

    Args:
        database: The database.
        policy: When maintenance is due.

    Attributes:
        policy: As above.
        failure: The message of the last failure; empty after a success.
    """

    def __init__(self, database: LanceDatabase, policy: MaintenancePolicy | None = None) -> None:
        self.policy = policy or MaintenancePolicy()
        self.failure = ""
        self._database = database
        self._task = asyncio.create_task(self._run())

    async def maintain(self) -> Mapping[str, Detail]:
        """Do all maintenance now, due or not; return what was done."""
        before = (await self._database.snapshot()).manifest
        await self._database.flush()
        compacted = 0
        for name, entry in (await self._database.snapshot()).manifest.tables.items():
            if entry.flushes:
                await self._compact(name)
                compacted += 1
        await self._database.remove_orphans()
        return {"flushed_rows": before.wal_rows, "compacted_tables": compacted}

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._wait_for_flush()
                await self._database.flush()
                await self._maintain_tables()
                self.failure = ""
            except ClosedError:
                return
            except Exception as error:  # noqa: BLE001 - after any failure, maintenance continues
                self.failure = str(error)
                _LOGGER.warning("maintenance of %s failed and is retried: %s", self._database.store.uri, error)
                await asyncio.sleep(_RETRY_S)

    async def _wait_for_flush(self) -> None:
        while (seconds := self.policy.flush_due_in(self._database.manifest)) is None or seconds > 0:
            with contextlib.suppress(TimeoutError):  # `wait_for` may swallow a cancellation in Python 3.11
                async with asyncio.timeout(seconds):
                    await self._database.changed.wait()
            self._database.changed.clear()

    async def _maintain_tables(self) -> None:
        for name, entry in (await self._database.snapshot()).manifest.tables.items():
            if self.policy.needs_compaction(entry):
                await self._compact(name)
            elif self.policy.needs_indexes(entry):
                await self._database.maintain_table(name, _build_indexes, indexed=True)

    async def _compact(self, name: str) -> None:
        async def work(table: lancedb.AsyncTable, entry: TableEntry) -> None:
            await compact(table, entry, self.policy)
            if entry.rows >= _INDEXED_ROWS:
                await _build_indexes(table, entry)

        await self._database.maintain_table(name, work, compacted=True)


async def compact(
    table: lancedb.AsyncTable, entry: TableEntry, policy: MaintenancePolicy = MaintenancePolicy()
) -> None:
    """Compact a table, update its indexes, and remove outdated versions; for `LanceDatabase.maintain_table`.

    The engine removes versions by the time they were written, but a reader needs a version until the next one replaced
    it. So the version that was the newest when the retention time began is kept, with all later ones and the manifest's.
    The engine removes versions after compacting, before the result is published, and measures ages from then; the
    policy adds `compaction_s` for that.

    Args:
        table: The table, open for writing.
        entry: The manifest's entry of it.
        policy: How long to keep outdated versions.
    """
    now = datetime.now(UTC)
    versions = await table.list_versions()  # type: ignore[no-untyped-call]  # lancedb omits the type
    written = {each["version"]: each["timestamp"].astimezone(UTC) for each in versions}
    await table.optimize(cleanup_older_than=policy.retained_age(written, entry.version, now))


async def _build_indexes(table: lancedb.AsyncTable, entry: TableEntry) -> None:
    for column in entry.indexes:
        await table.create_index(column, config=BTree(), replace=True)

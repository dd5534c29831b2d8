"""Maintenance keeps the Lance tables in few fragments, in the background, and changes no record."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import lancedb
import pytest

from pattern_core.abc import Delete, Insert, Put
from pattern_core.filters import Field
from pattern_core.schema import TABLES, CreateTable, DropTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_lancedb.local_store import LocalStore
from pattern_lancedb.maintenance import MaintenancePolicy
from pattern_lancedb.manifest import Manifest, TableEntry, WalEntry
from pattern_lancedb.storage import LanceStorage

pytestmark = pytest.mark.anyio

MEMORIES, USERS = TABLES["memory_blocks"], TABLES["users"]
NO_MAINTENANCE = MaintenancePolicy(rows=10**9, nbytes=10**12, age_s=10**6)


async def _open(path: Path, policy: MaintenancePolicy) -> LanceStorage:
    storage = await LanceStorage.open(await LocalStore.open(path), policy)
    for table in (MEMORIES, USERS):
        await storage.apply_schema(CreateTable(table, DIMENSIONS))
    return storage


async def _details(storage: LanceStorage) -> dict[str, Any]:
    return dict((await storage.health()).details)


async def _put(storage: LanceStorage, count: int, *, revision: int = 1, first: int = 0) -> None:
    """Commit records one by one, up to 50 concurrently."""
    for start in range(first, first + count, 50):
        numbers = range(start, min(first + count, start + 50))
        rows = [sample_row(MEMORIES, f"m{n:04}", revision=revision) for n in numbers]
        await asyncio.gather(*(storage.commit([Put(MEMORIES, row)]) for row in rows))


async def test_many_single_writes_leave_few_fragments(tmp_path: Path) -> None:
    """After 2,000 single upserts, background maintenance has left few fragments."""
    policy = MaintenancePolicy()
    async with await _open(tmp_path, policy) as storage:
        await _put(storage, 1000)
        await _put(storage, 1000, revision=2)
        details = await _details(storage)
        assert details["fragments"] <= policy.compact_flushes
        assert details["log_rows"] < 2 * policy.rows + 64  # some commits came during the last flush
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {2}
        assert await storage.count(MEMORIES) == 1000


async def test_maintain_does_everything(tmp_path: Path) -> None:
    """After `maintain`, the WAL is empty, each table is one fragment, and its scalar indexes cover all rows."""
    async with await _open(tmp_path, NO_MAINTENANCE) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(1200)])
        for n in range(3):
            await storage.database.flush()
            await _put(storage, 20, revision=2, first=50 * n)
        assert (await _details(storage))["fragments"] == 3
        assert await storage.maintain() == {"flushed_rows": 20, "compacted_tables": 1}
        details = await _details(storage)
        assert (details["log_rows"], details["changed_since_compaction"]) == (0, 0)
        table = await (await storage.database.snapshot()).table("memory_blocks")
        indexes = {each.columns[0]: await table.index_stats(each.name) for each in await table.list_indices()}
        assert indexes.keys() == {"id", "agent_id", "label"}
        assert {stats.num_unindexed_rows for stats in indexes.values() if stats} == {0}
        assert details["fragments"] <= 2
        assert await storage.maintain() == {"flushed_rows": 0, "compacted_tables": 0}


async def test_outdated_versions_are_removed(tmp_path: Path) -> None:
    """Compaction removes outdated versions, and keeps those within the retention time and the manifest's."""
    async with await _open(tmp_path / "kept", NO_MAINTENANCE) as storage:
        for n in range(6):
            await _put(storage, 20, revision=n + 1)
            await storage.database.flush()
        before = (await _details(storage))["versions"]
        await storage.maintain()
        assert (await _details(storage))["versions"] >= before
    async with await _open(
        tmp_path / "removed", attrs.evolve(NO_MAINTENANCE, retention_s=0, compaction_s=0)
    ) as storage:
        for n in range(6):
            await _put(storage, 20, revision=n + 1)
            await storage.database.flush()
        before = (await _details(storage))["versions"]
        await storage.maintain()
        assert (await _details(storage))["versions"] < before
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {6}
        await _put(storage, 20, revision=7)
        await storage.database.flush()
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {7}


async def test_an_unchanged_table_is_not_indexed_again(tmp_path: Path) -> None:
    """Scalar indexes are rebuilt once after some flushes, and not again when another table has changed."""
    policy = MaintenancePolicy()

    async def index(table: lancedb.AsyncTable, entry: TableEntry) -> None:
        for column in entry.indexes:
            await table.create_index(column, replace=True)

    async with await _open(tmp_path, NO_MAINTENANCE) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(1200)])
        await storage.maintain()
        indexed = []
        for n in range(2 * policy.index_flushes):
            await _put(storage, 1, revision=2, first=n)
            await storage.database.flush()
            if policy.needs_indexes(storage.database.manifest.tables["memory_blocks"]):
                await storage.database.maintain_table("memory_blocks", index, indexed=True)
                indexed.append(n)
            await storage.commit([Put(USERS, sample_row(USERS, "u1", revision=n + 1))])
            await storage.database.flush()
            assert not policy.needs_indexes(storage.database.manifest.tables["memory_blocks"])
        assert indexed == [policy.index_flushes - 1, 2 * policy.index_flushes - 1]
        await storage.maintain()
        assert storage.database.manifest.tables["memory_blocks"].indexed_flushes == 0


def test_the_version_of_the_manifest_is_kept() -> None:
    """A compaction removes only versions older than the manifest's, also if a crash has left newer ones long ago."""
    policy, now = MaintenancePolicy(retention_s=600, compaction_s=3600), datetime.now(UTC)

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    assert policy.retained_age({5: ago(90_000), 6: ago(700), 7: ago(1)}, 5, now) >= timedelta(seconds=90_000 + 3600)
    assert policy.retained_age({5: ago(90_000), 6: ago(700), 7: ago(1)}, 7, now) == timedelta(seconds=700 + 3600)
    assert policy.retained_age({5: ago(90_000), 6: ago(700)}, 6, now) == timedelta(seconds=700 + 3600)
    assert policy.retained_age({5: ago(300), 6: ago(1)}, 6, now) > timedelta(days=1000)


async def test_a_snapshot_does_not_change(tmp_path: Path) -> None:
    """A running scan yields the records of its start, while records change, are flushed and compacted."""
    async with await _open(tmp_path, NO_MAINTENANCE) as storage:
        await _put(storage, 40)
        await storage.database.flush()
        await _put(storage, 10, revision=2)
        scan = storage.scan(MEMORIES, columns=["id", "revision"], batch_rows=5)
        rows = (await anext(scan)).to_pylist()
        await storage.commit([Delete(MEMORIES, f"m{n:04}") for n in range(20)])
        await storage.maintain()
        async for batch in scan:
            rows += batch.to_pylist()
        assert rows == [{"id": f"m{n:04}", "revision": 2 if n < 10 else 1} for n in range(40)]
        assert await storage.count(MEMORIES) == 20


async def test_maintenance_during_writes(tmp_path: Path) -> None:
    """With a flush at every write, reads are correct while records are written, changed and deleted."""
    async with await _open(tmp_path, MaintenancePolicy(rows=1, compact_flushes=3)) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(20)])
        for n in range(20):
            await storage.commit(
                [Put(MEMORIES, sample_row(MEMORIES, f"m{n:04}", revision=2)), Delete(MEMORIES, f"m{n - 1:04}")]
            )
            assert [row["id"] for row in await storage.find(MEMORIES, limit=1)] == [f"m{n:04}"]
            assert await storage.count(MEMORIES, Field("revision") == 2) == 1
            assert await storage.count(MEMORIES) == 20 - n


async def test_a_table_dropped_during_a_flush(tmp_path: Path) -> None:
    """A table that is dropped and created again during a flush is as its last writer has left it."""
    async with await _open(tmp_path, NO_MAINTENANCE) as storage:
        await _put(storage, 30)
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        flush = asyncio.create_task(storage.database.flush())
        await storage.apply_schema(DropTable(MEMORIES))
        await storage.apply_schema(CreateTable(MEMORIES, DIMENSIONS))
        await asyncio.gather(flush, return_exceptions=True)
        assert await storage.count(MEMORIES) == 0
        assert await storage.count(USERS) == 1
        await _put(storage, 3)
        await storage.maintain()
        assert await storage.count(MEMORIES) == 3


def test_when_maintenance_is_due() -> None:
    """A flush is due by rows, bytes or age of the WAL; a compaction by changed rows or flushes of a table."""
    policy = MaintenancePolicy(rows=10, nbytes=1000, age_s=60, compact_share=0.5, compact_flushes=4)
    now = time.time()
    assert policy.flush_due_in(Manifest()) is None
    assert policy.flush_due_in(Manifest(wal=(WalEntry("a", 0, 10, 1, now),))) == 0
    assert policy.flush_due_in(Manifest(wal=(WalEntry("a", 0, 1, 500, now), WalEntry("b", 0, 1, 500, now)))) == 0
    rest = policy.flush_due_in(Manifest(wal=(WalEntry("a", 0, 1, 1, now - 20),)))
    assert rest == pytest.approx(40, abs=5)
    assert policy.flush_due_in(Manifest(wal=(WalEntry("a", 0, 1, 1, now - 100),))) == 0
    entry = TableEntry("t", 1, ("id",), rows=10_000, changed_rows=4999, flushes=3)
    assert not policy.needs_compaction(entry)
    assert policy.needs_compaction(attrs.evolve(entry, changed_rows=5000))
    assert policy.needs_compaction(attrs.evolve(entry, flushes=4))
    assert not policy.needs_compaction(attrs.evolve(entry, rows=3, changed_rows=3))

"""Upkeep keeps the Lance tables in few parts, by itself, and what it does is never seen."""

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
from pattern_lancedb.head import Head, LogEntry, TableEntry
from pattern_lancedb.place import Folder
from pattern_lancedb.storage import LanceStorage
from pattern_lancedb.upkeep import Policy

pytestmark = pytest.mark.anyio

MEMORIES, USERS = TABLES["memory_blocks"], TABLES["users"]
NEVER = Policy(rows=10**9, size=10**12, age=10**6)


async def _open(path: Path, policy: Policy) -> LanceStorage:
    storage = await LanceStorage.open(await Folder.open(path), policy)
    for table in (MEMORIES, USERS):
        await storage.apply_schema(CreateTable(table, DIMENSIONS))
    return storage


async def _details(storage: LanceStorage) -> dict[str, Any]:
    return dict((await storage.health()).details)


async def _put(storage: LanceStorage, count: int, *, revision: int = 1, first: int = 0) -> None:
    """Commit records one by one, some at the same time."""
    for start in range(first, first + count, 50):
        numbers = range(start, min(first + count, start + 50))
        rows = [sample_row(MEMORIES, f"m{n:04}", revision=revision) for n in numbers]
        await asyncio.gather(*(storage.commit([Put(MEMORIES, row)]) for row in rows))


async def test_many_single_writes_leave_few_fragments(tmp_path: Path) -> None:
    """After 2,000 upserts that were committed one by one there are few fragments, and nobody had to ask."""
    policy = Policy()
    async with await _open(tmp_path, policy) as storage:
        await _put(storage, 1000)
        await _put(storage, 1000, revision=2)
        details = await _details(storage)
        assert details["fragments"] <= policy.most_moves
        assert details["log_rows"] < 2 * policy.rows + 64  # what has come while the last part was moved
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {2}
        assert await storage.count(MEMORIES) == 1000


async def test_maintain_does_all_that_could_be_due(tmp_path: Path) -> None:
    """After `maintain` nothing is in the log, each table is one fragment, and its lookups are indexed."""
    async with await _open(tmp_path, NEVER) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(1200)])
        for n in range(3):
            await storage.lance.flush()
            await _put(storage, 20, revision=2, first=50 * n)
        assert (await _details(storage))["fragments"] == 3
        assert await storage.maintain() == {"moved_rows": 20, "compacted_tables": 1}
        details = await _details(storage)
        assert (details["log_rows"], details["changed_since_compaction"]) == (0, 0)
        table = await (await storage.lance.snapshot()).table("memory_blocks")
        indexes = {each.columns[0]: await table.index_stats(each.name) for each in await table.list_indices()}
        assert indexes.keys() == {"id", "agent_id", "label"}
        assert {stats.num_unindexed_rows for stats in indexes.values() if stats} == {0}
        assert details["fragments"] <= 2
        assert await storage.maintain() == {"moved_rows": 0, "compacted_tables": 0}


async def test_outlived_versions_are_removed_and_the_newest_kept(tmp_path: Path) -> None:
    """Compaction removes the files of versions that nobody needs, and never what a head names or the grace time keeps."""
    async with await _open(tmp_path / "kept", NEVER) as storage:
        for n in range(6):
            await _put(storage, 20, revision=n + 1)
            await storage.lance.flush()
        before = (await _details(storage))["versions"]
        await storage.maintain()
        assert (await _details(storage))["versions"] >= before
    async with await _open(tmp_path / "removed", attrs.evolve(NEVER, grace=0, patience=0)) as storage:
        for n in range(6):
            await _put(storage, 20, revision=n + 1)
            await storage.lance.flush()
        before = (await _details(storage))["versions"]
        await storage.maintain()
        assert (await _details(storage))["versions"] < before
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {6}
        await _put(storage, 20, revision=7)
        await storage.lance.flush()
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {7}


async def test_a_table_at_rest_is_left_in_peace(tmp_path: Path) -> None:
    """Scalar indexes are made anew once after some moves, not again whenever another table has changed."""
    policy = Policy()

    async def index(table: lancedb.AsyncTable, entry: TableEntry) -> None:
        for column in entry.indexes:
            await table.create_index(column, replace=True)

    async with await _open(tmp_path, NEVER) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(1200)])
        await storage.maintain()
        wanted = []
        for n in range(2 * policy.moves):
            await _put(storage, 1, revision=2, first=n)
            await storage.lance.flush()
            if policy.wants_indexes(storage.lance.head.tables["memory_blocks"]):
                await storage.lance.rework("memory_blocks", index, indexed=True)
                wanted.append(n)
            await storage.commit([Put(USERS, sample_row(USERS, "u1", revision=n + 1))])
            await storage.lance.flush()
            assert not policy.wants_indexes(storage.lance.head.tables["memory_blocks"])
        assert wanted == [policy.moves - 1, 2 * policy.moves - 1]
        await storage.maintain()
        assert storage.lance.head.tables["memory_blocks"].indexed == 0


def test_the_version_of_the_head_is_kept() -> None:
    """What a compaction removes is older than the head's version, also where a crash has left newer ones long ago."""
    policy, now = Policy(grace=600, patience=3600), datetime.now(UTC)

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    assert policy.keeps({5: ago(90_000), 6: ago(700), 7: ago(1)}, 5, now) >= timedelta(seconds=90_000 + 3600)
    assert policy.keeps({5: ago(90_000), 6: ago(700), 7: ago(1)}, 7, now) == timedelta(seconds=700 + 3600)
    assert policy.keeps({5: ago(90_000), 6: ago(700)}, 6, now) == timedelta(seconds=700 + 3600)
    assert policy.keeps({5: ago(300), 6: ago(1)}, 6, now) > timedelta(days=1000)


async def test_a_snapshot_stays_as_it_is(tmp_path: Path) -> None:
    """A scan that has begun goes on with what was there, while records change, move and are compacted."""
    async with await _open(tmp_path, NEVER) as storage:
        await _put(storage, 40)
        await storage.lance.flush()
        await _put(storage, 10, revision=2)
        scan = storage.scan(MEMORIES, columns=["id", "revision"], batch_rows=5)
        rows = (await anext(scan)).to_pylist()
        await storage.commit([Delete(MEMORIES, f"m{n:04}") for n in range(20)])
        await storage.maintain()
        async for batch in scan:
            rows += batch.to_pylist()
        assert rows == [{"id": f"m{n:04}", "revision": 2 if n < 10 else 1} for n in range(40)]
        assert await storage.count(MEMORIES) == 20


async def test_upkeep_and_writers_at_once(tmp_path: Path) -> None:
    """While records are written, changed, deleted and moved at every write, every read is right."""
    async with await _open(tmp_path, Policy(rows=1, most_moves=3)) as storage:
        await storage.commit([Insert(MEMORIES, sample_row(MEMORIES, f"m{n:04}")) for n in range(20)])
        for n in range(20):
            await storage.commit(
                [Put(MEMORIES, sample_row(MEMORIES, f"m{n:04}", revision=2)), Delete(MEMORIES, f"m{n - 1:04}")]
            )
            assert [row["id"] for row in await storage.find(MEMORIES, limit=1)] == [f"m{n:04}"]
            assert await storage.count(MEMORIES, Field("revision") == 2) == 1
            assert await storage.count(MEMORIES) == 20 - n


async def test_a_table_that_is_dropped_while_it_is_moved(tmp_path: Path) -> None:
    """A table that is dropped or made again while upkeep is under way comes out as its last writer has left it."""
    async with await _open(tmp_path, NEVER) as storage:
        await _put(storage, 30)
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        moving = asyncio.create_task(storage.lance.flush())
        await storage.apply_schema(DropTable(MEMORIES))
        await storage.apply_schema(CreateTable(MEMORIES, DIMENSIONS))
        await asyncio.gather(moving, return_exceptions=True)
        assert await storage.count(MEMORIES) == 0
        assert await storage.count(USERS) == 1
        await _put(storage, 3)
        await storage.maintain()
        assert await storage.count(MEMORIES) == 3


def test_when_upkeep_is_due() -> None:
    """The log is moved by its rows, its bytes or its age; a table is compacted by its changes or its moves."""
    policy = Policy(rows=10, size=1000, age=60, share=0.5, most_moves=4)
    now = time.time()
    assert policy.due_in(Head()) is None
    assert policy.due_in(Head(log=(LogEntry("a", 0, 10, 1, now),))) == 0
    assert policy.due_in(Head(log=(LogEntry("a", 0, 1, 500, now), LogEntry("b", 0, 1, 500, now)))) == 0
    rest = policy.due_in(Head(log=(LogEntry("a", 0, 1, 1, now - 20),)))
    assert rest == pytest.approx(40, abs=5)
    assert policy.due_in(Head(log=(LogEntry("a", 0, 1, 1, now - 100),))) == 0
    entry = TableEntry("t", 1, ("id",), rows=10_000, changed=4999, moves=3)
    assert not policy.wants_compaction(entry)
    assert policy.wants_compaction(attrs.evolve(entry, changed=5000))
    assert policy.wants_compaction(attrs.evolve(entry, moves=4))
    assert not policy.wants_compaction(attrs.evolve(entry, rows=3, changed=3))

"""What the kit cannot know: how SQLite itself behaves."""

import asyncio
import math
import multiprocessing
import sqlite3
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pattern_core.abc import Insert
from pattern_core.errors import StorageError
from pattern_core.filters import Field, matches
from pattern_core.schema import TABLES, CreateTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_sqlite.plugin import SqliteOptions, pattern_storage

USERS, TASKS = TABLES["users"], TABLES["tasks"]


async def _insert_one(options: SqliteOptions, number: int) -> None:
    async with await pattern_storage().open(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, f"u{number}"))])


def _work(options: list[SqliteOptions], number: int, barrier: Barrier) -> None:
    for each in options:
        barrier.wait(60)
        asyncio.run(_insert_one(each, number))


def test_processes_may_make_a_database_together(tmp_path: Path) -> None:
    """Processes that open one new file at the same moment wait for each other, and all succeed."""
    files = [SqliteOptions(path=tmp_path / f"{n}.sqlite") for n in range(8)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_work, args=(files, number, barrier)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    for file in files:
        connection = sqlite3.connect(file.path)
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (4,)
        connection.close()


@pytest.mark.anyio
async def test_a_writer_that_waits_holds_up_nobody(tmp_path: Path) -> None:
    """While another process writes, a commit waits without blocking the event loop, and gives up after its time."""
    options = SqliteOptions(path=tmp_path / "pattern.sqlite", busy_timeout=0.5)
    async with await pattern_storage().open(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        other = sqlite3.connect(options.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, "u1"))]))
        turns = 0
        while not commit.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100
        with pytest.raises(StorageError, match="locked.*Nothing was written"):
            await commit
        other.close()  # lets go of the lock
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        assert await storage.count(USERS) == 1


@pytest.mark.anyio
async def test_values_that_sqlite_cannot_hold(tmp_path: Path) -> None:
    """A filter finds what `matches` says for huge integers, NaN, infinity, half a character and very long lists."""
    fields = {name: Field(name) for name in ("title", "estimated_minutes", "complexity_score")}
    rows = [sample_row(TASKS, f"t{n}", title=str(n), estimated_minutes=n, complexity_score=2.0**n) for n in (0, 1, 63)]
    rows.append(sample_row(TASKS, "null"))
    filters = [fields["title"].in_(["0", None, *map(str, range(2, 50_000))]), ~(fields["title"] > "\ud800")]
    for name in ("estimated_minutes", "complexity_score"):
        for value in (2**63, 2**63 + 1, -(2**63) - 1, 10**400, math.inf, -math.inf, math.nan):
            filters += [fields[name] == value, fields[name] != value, fields[name] < value, fields[name] >= value]
    async with await pattern_storage().open(SqliteOptions(path=tmp_path / "pattern.sqlite")) as storage:
        await storage.apply_schema(CreateTable(TASKS, DIMENSIONS))
        await storage.commit([Insert(TASKS, row) for row in rows])
        for where in filters:
            TASKS.check_filter(where)
            expected = sorted(row["id"] for row in rows if matches(where, row))
            assert [row["id"] for row in await storage.find(TASKS, where)] == expected, str(where)[:200]
        found = await storage.get(TASKS, [f"t{n}" for n in range(50_000)])
        assert sum(row is not None for row in found) == 3


@pytest.mark.anyio
async def test_a_transaction_left_open_by_hand_is_undone(tmp_path: Path) -> None:
    """`execute` answers with rows, and a BEGIN through it does not stop the commits after it."""
    async with await pattern_storage().open(SqliteOptions(path=tmp_path / "pattern.sqlite")) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.execute("BEGIN IMMEDIATE")
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        found = await storage.execute("SELECT id, revision FROM users WHERE id = :id", {"id": "u1"})
        assert found == [{"id": "u1", "revision": 1}]
        assert (await storage.maintain())["moved_pages"]


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["no database", "folder"])
async def test_what_cannot_be_opened_is_named(place: str, tmp_path: Path) -> None:
    """A file that is no database, or a folder, is refused by name."""
    path = tmp_path / "pattern.sqlite"
    if place == "folder":
        path.mkdir()
    else:
        path.write_text("these are my notes, and not a database at all\n" * 100)
    with pytest.raises(StorageError, match=r"pattern\.sqlite"):
        await pattern_storage().open(SqliteOptions(path=path))


@pytest.fixture
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"

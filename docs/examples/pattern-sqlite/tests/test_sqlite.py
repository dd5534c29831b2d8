"""Rules of SQLite, which the kit cannot know."""

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

pytestmark = pytest.mark.anyio

USERS, TASKS = TABLES["users"], TABLES["tasks"]


async def _insert_one(options: SqliteOptions, number: int) -> None:
    async with await pattern_storage().open(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.commit([Insert(USERS, sample_row(USERS, f"u{number}"))])


def _insert_in_each(options: list[SqliteOptions], number: int, barrier: Barrier) -> None:
    for each in options:
        barrier.wait(60)
        asyncio.run(_insert_one(each, number))


def test_processes_can_create_one_file_at_once(tmp_path: Path) -> None:
    """If several processes create one file at the same time, all succeed."""
    files = [SqliteOptions(path=tmp_path / f"{n}.sqlite") for n in range(8)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_insert_in_each, args=(files, number, barrier)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    for file in files:
        connection = sqlite3.connect(file.path)
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (4,)
        connection.close()


async def test_a_waiting_commit_does_not_block_the_loop(tmp_path: Path) -> None:
    """A commit waits for another writer off the event loop, and fails after `busy_timeout`."""
    options = SqliteOptions(path=tmp_path / "pattern.sqlite", busy_timeout=0.5)
    async with await pattern_storage().open(options) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        other = sqlite3.connect(options.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, "u1"))]))
        iterations = 0
        while not commit.done():
            await asyncio.sleep(0)
            iterations += 1
        assert iterations > 100
        with pytest.raises(StorageError, match="locked.*Nothing was written"):
            await commit
        other.close()  # releases the lock
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        assert await storage.count(USERS) == 1


async def test_filters_on_values_that_sqlite_cannot_bind(tmp_path: Path) -> None:
    """Filters on huge integers, NaN, infinity, lone surrogates and long lists agree with `matches`."""
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


async def test_execute_leaves_no_transaction_open(tmp_path: Path) -> None:
    """`execute` returns rows, and rolls back a transaction that its statement began."""
    async with await pattern_storage().open(SqliteOptions(path=tmp_path / "pattern.sqlite")) as storage:
        await storage.apply_schema(CreateTable(USERS, DIMENSIONS))
        await storage.execute("BEGIN IMMEDIATE")
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        found = await storage.execute("SELECT id, revision FROM users WHERE id = :id", {"id": "u1"})
        assert found == [{"id": "u1", "revision": 1}]
        assert (await storage.maintain())["moved_pages"]


@pytest.mark.parametrize("path_is", ["no database", "folder"])
async def test_an_error_of_open_names_the_path(path_is: str, tmp_path: Path) -> None:
    """Opening a folder, or a file that is no database, raises an error that names it."""
    path = tmp_path / "pattern.sqlite"
    if path_is == "folder":
        path.mkdir()
    else:
        path.write_text("Notes, not a database.\n" * 100)
    with pytest.raises(StorageError, match=r"pattern\.sqlite"):
        await pattern_storage().open(SqliteOptions(path=path))


@pytest.fixture
def anyio_backend() -> str:
    """The backend; pattern-core requires asyncio."""
    return "asyncio"

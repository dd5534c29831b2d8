"""The contract of `pattern_core.abc.Storage`. Rules of opening, closing and tables; other modules hold the others."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import numpy as np
import pytest

from pattern_core.abc import Insert, Patch, Storage
from pattern_core.errors import AlreadyExistsError, ClosedError, StorageError
from pattern_core.filters import Field
from pattern_core.hookspecs import StorageSpec
from pattern_core.schema import TABLES, AlterTable, Column, CreateTable, DropTable, Kind

from .contract import outcome_of
from .memory_storage import MemoryStorage
from .rows import DIMENSIONS, KIT_TABLES, TASKS, sample_row, sample_vector
from .storage_filters import FilterRules
from .storage_log import LogProcessRules, LogRules
from .storage_processes import ProcessRules
from .storage_reads import ReadRules
from .storage_values import ValueRules
from .storage_writes import WriteRules

__all__ = ["StorageContract"]

USERS = TABLES["users"]


class StorageContract(ReadRules, FilterRules, WriteRules, ValueRules, LogRules, ProcessRules, LogProcessRules):
    """The rules of `Storage`. A subclass sets `spec` and overrides `options`."""

    spec: StorageSpec

    @pytest.fixture
    def open_storage(self, options: Any) -> Callable[[], Awaitable[Storage]]:
        """Return a function that opens the storage: empty in the first call, with the same data after `aclose`."""
        return functools.partial(self.spec.open, options)

    @pytest.fixture
    async def storage(self, open_storage: Callable[[], Awaitable[Storage]]) -> AsyncIterator[Storage]:
        """An open storage with all tables, without records."""
        async with await open_storage() as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))
            yield storage

    @pytest.fixture
    def reopen(
        self, storage: Storage, open_storage: Callable[[], Awaitable[Storage]]
    ) -> Callable[[], Awaitable[Storage]]:
        """Return a function that closes the storage and opens the same data again."""
        if not (self.spec.persistent or isinstance(storage, MemoryStorage)):
            pytest.skip("this storage is not persistent")

        async def close_and_open() -> Storage:
            await storage.aclose()
            return await open_storage()

        return close_and_open

    async def test_a_new_storage_has_no_tables(self, open_storage: Callable[[], Awaitable[Storage]]) -> None:
        """A new storage has none of pattern-core's tables.

        If it fails: create tables in `apply_schema` only. The fixture `options` must lead to an empty storage.
        """
        async with await open_storage() as storage:
            assert not await storage.tables() & TABLES.keys()

    async def test_created_tables_are_listed(self, storage: Storage) -> None:
        """`tables` returns the names of the created tables.

        If it fails: ask the engine for its tables, and return the names that `Table.name` had.
        """
        assert await storage.tables() >= TABLES.keys()

    async def test_creating_a_table_twice_keeps_its_records(self, storage: Storage) -> None:
        """`CreateTable` does nothing if the table exists as declared.

        If it fails: create only what is missing (`IF NOT EXISTS`). Never overwrite.
        """
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        for table in KIT_TABLES:
            await storage.apply_schema(CreateTable(table, DIMENSIONS))
        assert await storage.count(USERS) == 1

    async def test_a_table_can_be_dropped_and_created_again(self, storage: Storage) -> None:
        """`DropTable` removes one table with its records; a second `DropTable` does nothing.

        If it fails: drop only an existing table (`IF EXISTS`), with its rows, indexes and unique keys.
        """
        agents = TABLES["agents"]
        row = sample_row(agents, "a1")
        await storage.commit([Insert(USERS, sample_row(USERS, "u1")), Insert(agents, row)])
        await storage.apply_schema(DropTable(agents))
        await storage.apply_schema(DropTable(agents))
        assert "agents" not in await storage.tables()
        await storage.apply_schema(CreateTable(agents, DIMENSIONS))
        assert await storage.count(agents) == 0
        await storage.commit([Insert(agents, row)])
        assert await storage.count(agents) == 1
        assert await storage.count(USERS) == 1

    async def test_columns_can_be_added_and_removed(self, storage: Storage) -> None:
        """`AlterTable` removes columns, adds null columns, and keeps the records; a second one does nothing.

        If it fails: remove all values of a dropped column, also vectors. Keep unique keys and indexes.
        """
        agents, count = TABLES["agents"], Column("count", Kind.INTEGER, optional=True)
        slim = attrs.evolve(agents, columns=(*(each for each in agents.columns if each.name != "state"), count))
        rows = [sample_row(agents, f"a{n}", user_id="u1", agent_type=f"type {n}") for n in range(300)]
        await storage.commit([Insert(agents, row) for row in rows])
        for _ in range(2):
            await storage.apply_schema(AlterTable(agents, slim, DIMENSIONS))
        found = await storage.find(slim)
        assert [row["id"] for row in found] == sorted(row["id"] for row in rows)
        assert all(row.keys() == {each.name for each in slim.columns} and row["count"] is None for row in found)
        await storage.commit([Patch(slim, "a1", {"count": 5}), Insert(slim, sample_row(slim, "new", user_id="u2"))])
        assert (await storage.get(slim, ["a1"]))[0] == {**next(row for row in found if row["id"] == "a1"), "count": 5}
        with pytest.raises(AlreadyExistsError):
            await storage.commit([Insert(slim, sample_row(slim, "b", user_id="u1", agent_type="type 7"))])
        assert await storage.count(slim, Field("user_id") == "u1") == 300

    async def test_a_vector_column_can_be_removed_and_added_again(self, storage: Storage) -> None:
        """A vector column that was removed and added again is null, and can be written.

        If it fails: remove the values of a dropped column.
        """
        bare = attrs.evolve(TASKS, columns=tuple(each for each in TASKS.columns if each.kind is not Kind.VECTOR))
        await storage.commit([Insert(TASKS, sample_row(TASKS, "t1", embedding=sample_vector("t1")))])
        await storage.apply_schema(AlterTable(TASKS, bare, DIMENSIONS))
        await storage.commit([Insert(bare, sample_row(bare, "t2")), Patch(bare, "t1", {"title": "new"})])
        assert [row["title"] for row in await storage.find(bare)] == ["new", "title of t2"]
        await storage.apply_schema(AlterTable(bare, TASKS, DIMENSIONS))
        assert [row["embedding"] for row in await storage.find(TASKS, vectors=True)] == [None, None]
        await storage.commit([Patch(TASKS, "t2", {"embedding": sample_vector("t2")})])
        (_, second) = await storage.find(TASKS, vectors=True)
        assert np.array_equal(second["embedding"], sample_vector("t2"))

    async def test_a_missing_table_is_an_error(self, storage: Storage) -> None:
        """Reading or writing a missing table raises `StorageError`.

        If it fails: some engines create a table on first use, without columns and keys. Prevent that.
        """
        await storage.apply_schema(DropTable(USERS))
        with pytest.raises(StorageError):
            await storage.find(USERS)
        with pytest.raises(StorageError):
            await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        assert "users" not in await storage.tables()

    async def test_health_names_the_engine(self, storage: Storage) -> None:
        """`health` of an open storage is ok, and names the engine.

        If it fails: query the engine, then return `Health(ok=True, engine="name and version")`.
        """
        health = await storage.health()
        assert health.ok
        assert health.engine.strip()

    async def test_a_closed_storage_raises(self, storage: Storage) -> None:
        """After `aclose`, every call raises `ClosedError`; a second `aclose` does nothing.

        If it fails: keep a flag, and check it first in every method, also in `scan` and `execute`.
        """
        await storage.aclose()
        await storage.aclose()

        async def scan() -> None:
            async for _ in storage.scan(USERS):
                pass

        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "tables": storage.tables,
            "apply_schema": lambda: storage.apply_schema(CreateTable(USERS, DIMENSIONS)),
            "get": lambda: storage.get(USERS, ["u1"]),
            "find": lambda: storage.find(USERS),
            "count": lambda: storage.count(USERS),
            "scan": scan,
            "commit": lambda: storage.commit([Insert(USERS, sample_row(USERS, "u1"))]),
            "health": storage.health,
            "execute": lambda: storage.execute("anything"),
        }
        outcomes = {name: await outcome_of(call) for name, call in calls.items()}
        assert outcomes == dict.fromkeys(calls, ClosedError)

    async def test_records_survive_closing(self, storage: Storage, reopen: Callable[[], Awaitable[Storage]]) -> None:
        """After closing and opening again, all committed records are unchanged.

        If it fails: `commit` returned before the engine wrote, or `aclose` dropped pending writes.
        """
        tasks = TABLES["tasks"]
        rows = [sample_row(tasks, f"t{n}", description="é😀", metadata={"n": n, "none": None}) for n in range(20)]
        await storage.commit([Insert(tasks, row) for row in rows])
        before = await storage.find(tasks, vectors=True)
        async with await reopen() as again:
            assert await again.find(tasks, vectors=True) == before
            assert await again.tables() >= TABLES.keys()

    async def test_closing_loses_no_commit(self, storage: Storage, reopen: Callable[[], Awaitable[Storage]]) -> None:
        """A commit that runs while the storage closes either takes effect or raises.

        If it fails: let `aclose` wait for running commits.
        """
        writers = [asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])) for n in range(8)]
        await asyncio.sleep(0)
        async with await reopen() as again:
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
            acknowledged = {f"u{n}" for n, outcome in enumerate(outcomes) if outcome is None}
            assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)
            assert {row["id"] for row in await again.find(USERS)} >= acknowledged

"""The contract of `pattern_core.abc.Storage`: opening, closing, tables; the other rules are in the modules beside it."""

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
from .storage_processes import ProcessRules
from .storage_reads import ReadRules
from .storage_values import ValueRules
from .storage_writes import WriteRules

__all__ = ["StorageContract"]

USERS = TABLES["users"]


class StorageContract(ReadRules, FilterRules, WriteRules, ValueRules, ProcessRules):
    """Every rule of `Storage`. A subclass sets `spec` and overrides `options`."""

    spec: StorageSpec

    @pytest.fixture
    def open_storage(self, options: Any) -> Callable[[], Awaitable[Storage]]:
        """A function that opens the storage: an empty one at first, then, after `aclose`, the same data."""
        return functools.partial(self.spec.open, options)

    @pytest.fixture
    async def storage(self, open_storage: Callable[[], Awaitable[Storage]]) -> AsyncIterator[Storage]:
        """An open storage with all tables, empty."""
        async with await open_storage() as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))
            yield storage

    @pytest.fixture
    def reopen(
        self, storage: Storage, open_storage: Callable[[], Awaitable[Storage]]
    ) -> Callable[[], Awaitable[Storage]]:
        """A function that closes the storage and opens the same data again."""
        if not (self.spec.persistent or isinstance(storage, MemoryStorage)):
            pytest.skip("this storage keeps nothing")

        async def close_and_open() -> Storage:
            await storage.aclose()
            return await open_storage()

        return close_and_open

    async def test_a_new_storage_has_no_tables_of_ours(self, open_storage: Callable[[], Awaitable[Storage]]) -> None:
        """A storage that was never used holds none of the tables.

        If it fails: the tables come from `apply_schema` alone; and `open_storage` has to begin with an empty place.
        """
        async with await open_storage() as storage:
            assert not await storage.tables() & TABLES.keys()

    async def test_created_tables_are_listed(self, storage: Storage) -> None:
        """`tables` returns the names of the tables that were created.

        If it fails: ask the engine for its tables, under the names of `Table.name`.
        """
        assert await storage.tables() >= TABLES.keys()

    async def test_creating_a_table_twice_keeps_its_records(self, storage: Storage) -> None:
        """`CreateTable` does nothing where the table is there as declared.

        If it fails: create only what is missing (`IF NOT EXISTS`), never overwrite.
        """
        await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        for table in KIT_TABLES:
            await storage.apply_schema(CreateTable(table, DIMENSIONS))
        assert await storage.count(USERS) == 1

    async def test_a_dropped_table_is_gone_and_can_be_made_again(self, storage: Storage) -> None:
        """`DropTable` removes the table with its records and nothing else, and a second one does nothing.

        If it fails: drop only what is there (`IF EXISTS`), and all that belongs to it: rows, indexes, unique keys.
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

    async def test_a_table_gets_other_columns(self, storage: Storage) -> None:
        """`AlterTable` takes columns away and adds others, null, and keeps the records; a second one does nothing.

        If it fails: a column that goes leaves nothing behind, also where it held a vector; keys and indexes stay.
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

    async def test_a_vector_column_goes_and_comes_back(self, storage: Storage) -> None:
        """A column of vectors that was taken away is null when it is there again, and can be written.

        If it fails: what a column held has to go with it.
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
        """Reading or writing a table that was not created raises `StorageError`.

        If it fails: an engine that makes tables as it meets them would make them without columns and keys; forbid it.
        """
        await storage.apply_schema(DropTable(USERS))
        with pytest.raises(StorageError):
            await storage.find(USERS)
        with pytest.raises(StorageError):
            await storage.commit([Insert(USERS, sample_row(USERS, "u1"))])
        assert "users" not in await storage.tables()

    async def test_health_is_good_while_open(self, storage: Storage) -> None:
        """`health` asks the engine and names it.

        If it fails: return `Health(ok=True, engine="name and version")` after a query that reached the engine.
        """
        health = await storage.health()
        assert health.ok
        assert health.engine.strip()

    async def test_a_closed_storage_refuses_everything(self, storage: Storage) -> None:
        """After `aclose` every call raises `ClosedError`; a second `aclose` does nothing.

        If it fails: remember that it was closed, and look at that first in every method, `scan` and `execute` too.
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
        """What was committed is there, the same, after closing and opening again; what was deleted is not.

        If it fails: `commit` returned before the engine had written, or `aclose` threw something away.
        """
        tasks = TABLES["tasks"]
        rows = [sample_row(tasks, f"t{n}", description="é😀", metadata={"n": n, "none": None}) for n in range(20)]
        await storage.commit([Insert(tasks, row) for row in rows])
        before = await storage.find(tasks, vectors=True)
        async with await reopen() as again:
            assert await again.find(tasks, vectors=True) == before
            assert await again.tables() >= TABLES.keys()

    async def test_closing_loses_no_acknowledged_write(
        self, storage: Storage, reopen: Callable[[], Awaitable[Storage]]
    ) -> None:
        """A commit that is under way while the storage closes either takes effect and returns, or raises.

        If it fails: let `aclose` wait for the writes that have begun.
        """
        writers = [asyncio.create_task(storage.commit([Insert(USERS, sample_row(USERS, f"u{n}"))])) for n in range(8)]
        await asyncio.sleep(0)
        async with await reopen() as again:
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
            acknowledged = {f"u{n}" for n, outcome in enumerate(outcomes) if outcome is None}
            assert all(outcome is None or isinstance(outcome, StorageError) for outcome in outcomes)
            assert {row["id"] for row in await again.find(USERS)} >= acknowledged

"""The rules of `Storage` that need a process to die, or several processes to write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Final

import pytest

from pattern_core.abc import Delete, IndexSpec, Insert, Patch, Put, Row, Storage, VectorChange, Write
from pattern_core.errors import AlreadyExistsError, ConflictError, DatabaseLockedError
from pattern_core.hookspecs import StorageSpec
from pattern_core.schema import TABLES, CreateTable
from pattern_core.search.exact import ExactIndex

from .child_processes import Child, ChildProcessRules, Start
from .rows import DIMENSIONS, KIT_TABLES, TASKS, sample_row, sample_vector

__all__ = [
    "ProcessRules",
    "answer",
    "change_vectors",
    "increment",
    "insert_first",
    "open_only",
    "state",
    "step",
    "write_without_end",
]

USERS = TABLES["users"]
AGENTS = TABLES["agents"]
KILLS: Final = 3
"""How often a writer is killed in one test."""

Open = Callable[[], Awaitable[Storage]]


def step(number: int) -> list[Write]:
    """Return a batch over two tables that leads from one state to the next."""
    name = f"{number:06}"
    batch: list[Write] = [
        Insert(USERS, sample_row(USERS, name)),
        Insert(AGENTS, sample_row(AGENTS, name, user_id=name)),
        Put(USERS, sample_row(USERS, "last", revision=number + 1)),
    ]
    if number >= 5:
        batch += [Delete(USERS, f"{number - 5:06}"), Patch(AGENTS, f"{number - 5:06}", {"name": "gone"})]
    return batch


def state(steps: int) -> tuple[list[str], dict[str, str]]:
    """Return what is there after some steps: the users, and each agent's name."""
    users = [f"{n:06}" for n in range(max(0, steps - 5), steps)]
    agents = {f"{n:06}": "gone" if n < steps - 5 else f"name of {n:06}" for n in range(steps)}
    return [*users, "last"] if steps else [], agents


async def write_without_end(pipe: Connection, open_storage: Open, number: int) -> None:
    """Take step after step, and say each that was acknowledged."""
    async with await open_storage() as storage:
        while True:
            await storage.commit(step(number))
            pipe.send(number)
            number += 1


async def open_only(pipe: Connection, open_storage: Open) -> None:
    """Say what is there."""
    async with await open_storage() as storage:
        pipe.send(sorted(await storage.tables()))


async def increment(pipe: Connection, open_storage: Open, times: int) -> None:
    """Add 1 to a record's revision a number of times, as often as it takes."""
    async with await open_storage() as storage:
        pipe.send("ready")
        pipe.recv()
        done = 0
        while done < times:
            (row,) = await storage.get(USERS, ["counter"])
            assert row is not None
            try:
                await storage.commit([Patch(USERS, "counter", {"revision": row["revision"] + 1}, row["revision"])])
                done += 1
            except ConflictError:
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - so that they do not march in step
        pipe.send("done")


async def insert_first(pipe: Connection, open_storage: Open, name: str) -> None:
    """Try to insert records that others try to insert at the same time, and say which were one's own."""
    async with await open_storage() as storage:
        pipe.send("ready")
        pipe.recv()
        won = []
        for key in range(10):
            agent = sample_row(AGENTS, f"{key} of {name}", user_id="u1", agent_type=f"type {key}")
            try:
                await storage.commit([Insert(USERS, sample_row(USERS, f"u{key}")), Insert(AGENTS, agent)])
                won.append(key)
            except AlreadyExistsError:
                continue
        pipe.send(won)


async def answer(pipe: Connection, open_storage: Open) -> None:
    """Insert a record, then say what one has seen of another's."""
    async with await open_storage() as storage:
        await storage.commit([Insert(USERS, sample_row(USERS, "child"))])
        pipe.send("written")
        wanted = pipe.recv()
        pipe.send([row is not None for row in await storage.get(USERS, wanted)] + [await storage.count(USERS)])


async def change_vectors(pipe: Connection, open_storage: Open) -> None:
    """Write a record with a vector, then, when told to, remove another."""
    async with await open_storage() as storage:
        await storage.commit([Insert(TASKS, _task("theirs"))])
        pipe.send("written")
        pipe.recv()
        await storage.commit([Delete(TASKS, "mine")])
        pipe.send("deleted")


def _task(id: str) -> Row:
    return sample_row(TASKS, id, user_id="ada", embedding=sample_vector("the same"))


class ProcessRules(ChildProcessRules):
    """Nothing acknowledged is lost when a process dies, and processes do not get into each other's way."""

    spec: StorageSpec

    @pytest.fixture
    async def tables(self, open_storage: Open) -> None:
        """All tables are there, and nobody has them open."""
        if not self.spec.persistent:
            pytest.skip("this storage ends with its process")
        async with await open_storage() as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))

    @pytest.fixture
    async def shared(self, tables: None, open_storage: Open) -> AsyncIterator[Storage]:
        """An open storage with all tables, which others may open, too."""
        if not self.spec.processes:
            pytest.skip("this storage belongs to one process at a time")
        async with await open_storage() as storage:
            yield storage

    async def test_a_killed_process_loses_nothing_acknowledged(
        self, tables: None, open_storage: Open, start: Start
    ) -> None:
        """After kill -9 at any moment, every acknowledged batch is there, and none is there in part.

        If it fails: a batch over several tables needs one transaction, or a log that is replayed on opening; `commit`
        returns after the engine has synced.
        """
        taken, dice = 0, random.Random(1)  # noqa: S311 - the moments of death, the same in each run
        for _ in range(KILLS):
            child = start(write_without_end, open_storage, taken)
            for _ in range(dice.randrange(1, 12)):
                taken = await child.hear() + 1
            await asyncio.sleep(dice.uniform(0, 0.02))
            taken += len(await child.kill())
            async with await open_storage() as storage:
                found = await _state(storage)
                assert found in (state(taken), state(taken + 1)), (
                    "the last step may be there unacknowledged, as a whole"
                )
                taken = len(found[1])

    async def test_a_second_process_is_refused_where_one_owns_the_storage(
        self, tables: None, open_storage: Open, start: Start
    ) -> None:
        """Where several processes cannot share the storage, `open` raises `DatabaseLockedError` for the second.

        If it fails: take a lock file before anything is read. Where processes can share it, say so in the spec.
        """
        if self.spec.processes:
            pytest.skip("this storage may be open in several processes")
        async with await open_storage():
            assert await start(open_only, open_storage).hear() == DatabaseLockedError.__name__
        assert await start(open_only, open_storage).hear() == sorted(table.name for table in KIT_TABLES)

    async def test_processes_lose_no_update(self, shared: Storage, open_storage: Open, start: Start) -> None:
        """Increments of one record from several processes, each with the revision it read, all count.

        If it fails: check revisions inside the engine's transaction, or under a lock that all processes share.
        """
        await shared.commit([Insert(USERS, sample_row(USERS, "counter"))])
        children = [start(increment, open_storage, 10) for _ in range(3)]
        await _together(children)
        assert [await child.hear() for child in children] == ["done"] * 3
        (row,) = await shared.get(USERS, ["counter"])
        assert row is not None
        assert row["revision"] == 31

    async def test_one_insert_of_many_processes_wins(self, shared: Storage, open_storage: Open, start: Start) -> None:
        """Of processes that insert the same ids and unique keys at once, each is won by one; nothing is there twice.

        If it fails: check that ids and keys are free inside the engine's transaction, or under a lock of all processes.
        """
        children = [start(insert_first, open_storage, name) for name in "abc"]
        await _together(children)
        won = [key for child in children for key in await child.hear()]
        assert sorted(won) == list(range(10))
        assert len(await shared.find(USERS)) == 10
        assert sorted(row["agent_type"] for row in await shared.find(AGENTS)) == [f"type {key}" for key in range(10)]

    async def test_processes_see_each_others_writes_at_once(
        self, shared: Storage, open_storage: Open, start: Start
    ) -> None:
        """What one process has acknowledged, another one's next read finds.

        If it fails: look for a newer state before each read (a read consistency interval of zero, no cached snapshot).
        """
        await shared.find(USERS)
        child = start(answer, open_storage)
        assert await child.hear() == "written"
        assert [row["id"] for row in await shared.find(USERS)] == ["child"]
        assert await shared.get(USERS, ["child"]) != [None]
        await shared.commit([Insert(USERS, sample_row(USERS, "parent")), Delete(USERS, "child")])
        child.pipe.send(["parent", "child"])
        assert await child.hear() == [True, False, 1]

    async def test_what_is_kept_in_memory_is_noticed_to_be_old(
        self, shared: Storage, open_storage: Open, start: Start
    ) -> None:
        """A vector search in memory, over this storage, finds what another process has written, and nothing it deleted.

        If it fails: `foreign_commits` has to return another number after any commit that was not this object's own.
        """
        async with ExactIndex(shared) as index:
            await index.create(IndexSpec(TASKS, DIMENSIONS, "cosine"))
            await shared.commit([Insert(TASKS, _task("mine"))])
            await index.apply(TASKS, [VectorChange("mine", "ada", sample_vector("the same"))])

            async def found() -> tuple[str, ...]:
                vector = sample_vector("the same")
                return (await index.search(TASKS, vector, partitions=["ada"], limit=5)).ids

            assert await found() == ("mine",)
            child = start(change_vectors, open_storage)
            assert await child.hear() == "written"
            assert await found() == ("mine", "theirs")
            child.pipe.send("go on")
            assert await child.hear() == "deleted"
            assert await found() == ("theirs",)


async def _together(children: list[Child]) -> None:
    """Let children begin at the same moment."""
    for child in children:
        assert await child.hear() == "ready"
    for child in children:
        child.pipe.send("go")


async def _state(storage: Storage) -> tuple[list[str], dict[str, str]]:
    users: list[Row] = await storage.find(USERS)
    agents = await storage.find(AGENTS)
    return [row["id"] for row in users], {row["id"]: row["name"] for row in agents}

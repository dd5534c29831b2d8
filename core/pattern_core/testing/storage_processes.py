"""The rules of `Storage` that kill a process, or write in several."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Final

import pytest

from pattern_core.abc import Delete, IndexSpec, Insert, Patch, Put, Row, Storage, VectorChange, Write
from pattern_core.catalog.commit_log import logged
from pattern_core.catalog.follower import Follower
from pattern_core.errors import AlreadyExistsError, ConflictError, DatabaseLockedError
from pattern_core.hookspecs import StorageSpec
from pattern_core.schema import TABLES, CreateTable
from pattern_core.search.exact import ExactIndex

from .child_processes import Child, ChildProcessRules, Start
from .rows import DIMENSIONS, KIT_TABLES, VECTORS, sample_row, sample_vector

__all__ = [
    "ProcessRules",
    "commit_forever",
    "compete_to_insert",
    "expected_state",
    "increment",
    "insert_and_read",
    "list_tables",
    "numbered_batch",
    "write_vectors",
]

USERS = TABLES["users"]
AGENTS = TABLES["agents"]
KILLS: Final = 3
"""How many times one test kills a writer."""

Open = Callable[[], Awaitable[Storage]]


def numbered_batch(number: int) -> list[Write]:
    """Return a batch over two tables. After the batches 0 to n - 1, the storage is in `expected_state` of n."""
    name = f"{number:06}"
    batch: list[Write] = [
        Insert(USERS, sample_row(USERS, name)),
        Insert(AGENTS, sample_row(AGENTS, name, user_id=name)),
        Put(USERS, sample_row(USERS, "last", revision=number + 1)),
    ]
    if number >= 5:
        batch += [Delete(USERS, f"{number - 5:06}"), Patch(AGENTS, f"{number - 5:06}", {"name": "gone"})]
    return batch


def expected_state(batches: int) -> tuple[list[str], dict[str, str]]:
    """Return the ids of the users and the names of the agents after a number of batches."""
    users = [f"{n:06}" for n in range(max(0, batches - 5), batches)]
    agents = {f"{n:06}": "gone" if n < batches - 5 else f"name of {n:06}" for n in range(batches)}
    return [*users, "last"] if batches else [], agents


async def commit_forever(pipe: Connection, open_storage: Open, number: int) -> None:
    """Commit one batch after another, and send the number of each acknowledged one."""
    async with await open_storage() as storage:
        while True:
            await storage.commit(numbered_batch(number))
            pipe.send(number)
            number += 1


async def list_tables(pipe: Connection, open_storage: Open) -> None:
    """Send the names of the tables."""
    async with await open_storage() as storage:
        pipe.send(sorted(await storage.tables()))


async def increment(pipe: Connection, open_storage: Open, times: int) -> None:
    """Add 1 to the revision of a record a number of times, and retry conflicts."""
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
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - spreads the retries of the processes
        pipe.send("done")


async def compete_to_insert(pipe: Connection, open_storage: Open, name: str) -> None:
    """Insert records that other processes insert at the same time, and send the keys that succeeded."""
    async with await open_storage() as storage:
        pipe.send("ready")
        pipe.recv()
        inserted = []
        for key in range(10):
            agent = sample_row(AGENTS, f"{key} of {name}", user_id="u1", agent_type=f"type {key}")
            try:
                await storage.commit([Insert(USERS, sample_row(USERS, f"u{key}")), Insert(AGENTS, agent)])
                inserted.append(key)
            except AlreadyExistsError:
                continue
        pipe.send(inserted)


async def insert_and_read(pipe: Connection, open_storage: Open) -> None:
    """Insert a record, receive ids, and send which of them exist, and the number of all records."""
    async with await open_storage() as storage:
        await storage.commit([Insert(USERS, sample_row(USERS, "child"))])
        pipe.send("written")
        ids = pipe.recv()
        pipe.send([row is not None for row in await storage.get(USERS, ids)] + [await storage.count(USERS)])


async def write_vectors(pipe: Connection, open_storage: Open) -> None:
    """Insert a record with a vector, wait for a message, and delete another record."""
    async with await open_storage() as storage:
        await storage.commit(logged([Insert(VECTORS, _vector("theirs"))], storage.writer))
        pipe.send("written")
        pipe.recv()
        await storage.commit(logged([Delete(VECTORS, "mine")], storage.writer))
        pipe.send("deleted")


def _vector(id: str) -> Row:
    return sample_row(VECTORS, id, partition="ada", embedding=sample_vector("the same"))


class ProcessRules(ChildProcessRules):
    """Processes: acknowledged writes survive a kill, and concurrent processes lose no writes."""

    spec: StorageSpec

    @pytest.fixture
    async def tables(self, open_storage: Open) -> None:
        """Create all tables, and close the storage."""
        if not self.spec.persistent:
            pytest.skip("this storage is not persistent")
        async with await open_storage() as storage:
            for table in KIT_TABLES:
                await storage.apply_schema(CreateTable(table, DIMENSIONS))

    @pytest.fixture
    async def shared(self, tables: None, open_storage: Open) -> AsyncIterator[Storage]:
        """An open storage with all tables, which other processes may open as well."""
        if not self.spec.processes:
            pytest.skip("only one process at a time may open this storage")
        async with await open_storage() as storage:
            yield storage

    async def test_a_killed_process_loses_no_commit(self, tables: None, open_storage: Open, start: Start) -> None:
        """After ``kill -9`` at any time, every acknowledged batch is complete, and no batch is partial.

        If it fails: a batch over several tables needs one transaction, or a log that is replayed on opening. Sync the
        engine before `commit` returns.
        """
        batches, generator = 0, random.Random(1)  # noqa: S311 - kills at the same times in each run
        for _ in range(KILLS):
            child = start(commit_forever, open_storage, batches)
            for _ in range(generator.randrange(1, 12)):
                batches = await child.receive() + 1
            await asyncio.sleep(generator.uniform(0, 0.02))
            batches += len(await child.kill())
            async with await open_storage() as storage:
                found = await _state(storage)
                expected = expected_state(batches), expected_state(batches + 1)
                assert found in expected, "one more batch may be complete without having been acknowledged"
                batches = len(found[1])

    async def test_a_second_process_cannot_open_an_exclusive_storage(
        self, tables: None, open_storage: Open, start: Start
    ) -> None:
        """If processes cannot share the storage, `open` raises `DatabaseLockedError` in a second process.

        If it fails: lock a file before reading anything. If processes can share the storage, set ``processes=True``.
        """
        if self.spec.processes:
            pytest.skip("several processes may open this storage")
        async with await open_storage():
            assert await start(list_tables, open_storage).receive() == DatabaseLockedError.__name__
        assert await start(list_tables, open_storage).receive() == sorted(table.name for table in KIT_TABLES)

    async def test_processes_lose_no_updates(self, shared: Storage, open_storage: Open, start: Start) -> None:
        """If several processes increment one record, each with the revision it read, all increments count.

        If it fails: check revisions inside the engine's transaction, or under a lock that all processes share.
        """
        await shared.commit([Insert(USERS, sample_row(USERS, "counter"))])
        children = [start(increment, open_storage, 10) for _ in range(3)]
        await _together(children)
        assert [await child.receive() for child in children] == ["done"] * 3
        (row,) = await shared.get(USERS, ["counter"])
        assert row is not None
        assert row["revision"] == 31

    async def test_one_of_several_processes_inserts(self, shared: Storage, open_storage: Open, start: Start) -> None:
        """If several processes insert the same id or unique key, exactly one of them succeeds.

        If it fails: check ids and keys inside the engine's transaction, or under a lock that all processes share.
        """
        children = [start(compete_to_insert, open_storage, name) for name in "abc"]
        await _together(children)
        inserted = [key for child in children for key in await child.receive()]
        assert sorted(inserted) == list(range(10))
        assert len(await shared.find(USERS)) == 10
        assert sorted(row["agent_type"] for row in await shared.find(AGENTS)) == [f"type {key}" for key in range(10)]

    async def test_processes_see_each_others_writes_at_once(
        self, shared: Storage, open_storage: Open, start: Start
    ) -> None:
        """A commit in one process is visible to the next read in another.

        If it fails: check for a newer state before each read (no cached snapshot, a read consistency interval of 0).
        """
        await shared.find(USERS)
        child = start(insert_and_read, open_storage)
        assert await child.receive() == "written"
        assert [row["id"] for row in await shared.find(USERS)] == ["child"]
        assert await shared.get(USERS, ["child"]) != [None]
        await shared.commit([Insert(USERS, sample_row(USERS, "parent")), Delete(USERS, "child")])
        child.pipe.send(["parent", "child"])
        assert await child.receive() == [True, False, 1]

    async def test_a_process_refreshes_its_cached_vectors(
        self, shared: Storage, open_storage: Open, start: Start
    ) -> None:
        """A vector search in memory, over this storage, sees the inserts and deletions of another process.

        If it fails: `changes_since` must report every commit of another process or object.
        """
        follower = Follower(shared)
        async with ExactIndex(shared) as index:
            await index.create(IndexSpec(VECTORS, DIMENSIONS, "cosine"))
            await shared.commit(logged([Insert(VECTORS, _vector("mine"))], shared.writer))
            await index.apply(VECTORS, [VectorChange("mine", "ada", sample_vector("the same"))])

            async def found() -> tuple[str, ...]:
                async with follower.catch_up() as changes:
                    await index.refresh(changes)
                vector = sample_vector("the same")
                return (await index.search(VECTORS, vector, partitions=["ada"], limit=5)).ids

            assert await found() == ("mine",)
            child = start(write_vectors, open_storage)
            assert await child.receive() == "written"
            assert await found() == ("mine", "theirs")
            child.pipe.send("go on")
            assert await child.receive() == "deleted"
            assert await found() == ("theirs",)


async def _together(children: list[Child]) -> None:
    """Let the children start at the same time."""
    for child in children:
        assert await child.receive() == "ready"
    for child in children:
        child.pipe.send("go")


async def _state(storage: Storage) -> tuple[list[str], dict[str, str]]:
    users = await storage.find(USERS)
    agents = await storage.find(AGENTS)
    return [row["id"] for row in users], {row["id"]: row["name"] for row in agents}

"""Several writers on one database: the checks of a batch hold until its commit, and no writer starves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from pattern_core.abc import Check, CheckNone, Delete, Insert, Patch, Position, Put, Storage, Write
from pattern_core.catalog.commit_log import logged
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from pattern_core.filters import Field
from pattern_core.schema import COMMIT_LOG, TABLES, CreateTable, DropTable
from pattern_core.testing import DIMENSIONS, sample_row
from pattern_surreal_remote.plugin import StorageOptions, pattern_storage
from tests.servers.surreal import Server

pytestmark = pytest.mark.anyio

USERS, AGENTS = TABLES["users"], TABLES["agents"]
ROUNDS = 40

NewOptions = Callable[..., StorageOptions]


@pytest.fixture
def options_of_pair(server: Server, options_on: NewOptions) -> StorageOptions:
    """The options of one database."""
    return options_on(server)


@pytest.fixture
async def pair(options_of_pair: StorageOptions) -> AsyncIterator[tuple[Storage, Storage]]:
    """The database, opened twice, with two tables."""
    async with (
        await pattern_storage().open(options_of_pair) as one,
        await pattern_storage().open(options_of_pair) as other,
    ):
        for table in (USERS, AGENTS):
            await one.apply_schema(CreateTable(table, DIMENSIONS))
        yield one, other


def agent(id: str, **columns: Any) -> Write:
    """Return the write of a new agent."""
    return Insert(AGENTS, sample_row(AGENTS, id, **columns))


async def together(pair: tuple[Storage, Storage], *batches: Sequence[Write]) -> list[bool]:
    """Commit batches concurrently, alternately through both storages; return which took effect."""
    calls = [pair[number % 2].commit(batch) for number, batch in enumerate(batches)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, ConflictError | NotFoundError | AlreadyExistsError), outcome
    return [outcome is None for outcome in outcomes]


async def test_nothing_is_added_below_what_is_deleted(pair: tuple[Storage, Storage]) -> None:
    """Of "delete the user if it has no agents" and "add an agent if the user exists", one fails, in any order."""
    wins = [0, 0]
    for n in range(ROUNDS):
        user = f"u{n}"
        await pair[0].commit([Insert(USERS, sample_row(USERS, user))])
        add: list[Write] = [Check(USERS, user), agent(f"a{n}", user_id=user)]
        delete: list[Write] = [CheckNone(AGENTS, Field("user_id") == user), Delete(USERS, user, 1)]
        if n % 2:
            added, deleted = await together(pair, add, delete)
        else:
            deleted, added = await together(pair, delete, add)
        assert added is not deleted
        wins[added] += 1
    assert all(wins), "both orders came up, or this test shows nothing"


async def test_two_records_that_each_need_the_other(pair: tuple[Storage, Storage]) -> None:
    """Of two batches that each write a record which the other one checks, one fails."""
    for n in range(ROUNDS):
        a, b = f"a{n}", f"b{n}"
        await pair[0].commit([Insert(USERS, sample_row(USERS, a)), Insert(USERS, sample_row(USERS, b))])
        first: list[Write] = [Check(USERS, a, 1), Patch(USERS, b, {"revision": 2}, 1)]
        second: list[Write] = [Check(USERS, b, 1), Patch(USERS, a, {"revision": 2}, 1)]
        assert sum(await together(pair, first, second)) == 1


@pytest.mark.parametrize("write", ["patch", "put", "delete"])
async def test_a_checked_record_stays_as_it_was(pair: tuple[Storage, Storage], write: str) -> None:
    """A batch that checks a record does not commit after a change of it, however often the record was checked."""
    writes: dict[str, Callable[[str], Write]] = {
        "patch": lambda key: Patch(USERS, key, {"revision": 2}, 1),
        "put": lambda key: Put(USERS, sample_row(USERS, key, revision=2)),
        "delete": lambda key: Delete(USERS, key),
    }
    for n in range(ROUNDS):
        id = f"u{n}"
        await pair[0].commit([Insert(USERS, sample_row(USERS, id))])
        for m in range(n % 3):  # the first who relies on a record does more than those after him
            await pair[m % 2].commit([Check(USERS, id, 1), agent(f"before {n} {m}", user_id=f"{id} {m}")])
        change = [CheckNone(AGENTS, Field("user_id") == id), writes[write](id)]
        relying = [Check(USERS, id, 1), agent(f"a{n}", user_id=id)]
        assert sum(await together(pair, change, relying)) == 1


async def test_a_patch_that_changes_nothing_relies_on_its_record(pair: tuple[Storage, Storage]) -> None:
    """A patch that changes no value still requires its revision at the commit."""
    for n in range(ROUNDS):
        a, b = f"a{n}", f"b{n}"
        await pair[0].commit([Insert(USERS, sample_row(USERS, a)), Insert(USERS, sample_row(USERS, b))])
        first: list[Write] = [Patch(USERS, a, {"settings": {}}, 1), Patch(USERS, b, {"revision": 2}, 1)]
        second: list[Write] = [Patch(USERS, b, {"revision": 1}, 1), Patch(USERS, a, {"revision": 2}, 1)]
        assert sum(await together(pair, first, second)) == 1


async def test_what_was_absent_stays_absent(pair: tuple[Storage, Storage]) -> None:
    """Of two batches that each insert a record which the other one requires to be absent, one fails."""
    for n in range(ROUNDS):
        first: list[Write] = [Check(USERS, f"a{n}", 0), Insert(USERS, sample_row(USERS, f"b{n}"))]
        second: list[Write] = [Check(USERS, f"b{n}", 0), Insert(USERS, sample_row(USERS, f"a{n}"))]
        assert sum(await together(pair, first, second)) == 1


async def test_many_rely_on_one_record_at_once(pair: tuple[Storage, Storage]) -> None:
    """Batches that check one record, and change others, do not conflict."""
    await pair[0].commit([Insert(USERS, sample_row(USERS, "u"))])
    batches = [[Check(USERS, "u", 1), agent(f"a{n}", user_id=f"{n}")] for n in range(60)]
    assert await together(pair, *batches) == [True] * 60


async def test_nobody_starves(pair: tuple[Storage, Storage]) -> None:
    """A slow batch among many fast ones commits in time, and so do they."""
    await pair[0].commit([Insert(USERS, sample_row(USERS, "u"))])
    done = False
    quick = 0

    async def write_on(storage: Storage, name: str) -> None:
        nonlocal quick
        number = 0
        while not done:
            await storage.commit([Check(USERS, "u"), agent(f"{name} {number}", user_id=f"{name} {number}")])
            number += 1
            quick += 1

    writers = [asyncio.create_task(write_on(pair[n % 2], f"w{n}")) for n in range(6)]
    slow = [agent(f"slow {n}", user_id=f"slow {n}") for n in range(1000)]
    before = time.monotonic()
    await pair[0].commit(
        [*slow, CheckNone(AGENTS, Field("user_id") == "nobody"), Patch(USERS, "u", {"revision": 2}, 1)]
    )
    took = time.monotonic() - before
    done = True
    await asyncio.gather(*writers)
    assert took < 15
    assert quick > 6


async def test_a_key_is_taken_once(pair: tuple[Storage, Storage]) -> None:
    """Of many concurrent inserts with one unique key, one succeeds, and the others raise `AlreadyExistsError`."""
    for n in range(10):
        batches = [[agent(f"{n} {m}", user_id="u", agent_type=f"type {n}")] for m in range(8)]
        assert sum(await together(pair, *batches)) == 1
    assert await pair[0].count(AGENTS) == 10


async def test_a_table_that_another_one_has_removed(pair: tuple[Storage, Storage]) -> None:
    """A write to a table that another process has dropped is an error; the server alone would create it without a schema."""
    await pair[1].commit([Insert(USERS, sample_row(USERS, "u"))])
    await pair[0].apply_schema(DropTable(USERS))
    for write in (Insert(USERS, sample_row(USERS, "v")), Put(USERS, sample_row(USERS, "v")), Delete(USERS, "u")):
        with pytest.raises(StorageError, match="no table users"):
            await pair[1].commit([write])
    assert "users" not in await pair[1].tables()
    await pair[0].apply_schema(CreateTable(USERS, DIMENSIONS))
    await pair[1].commit([Insert(USERS, sample_row(USERS, "u"))])


async def test_a_short_visit_is_in_the_log(pair: tuple[Storage, Storage], options_of_pair: StorageOptions) -> None:
    """The log also tells of a process that opened, wrote and closed between two looks; its rows are removed."""
    await pair[0].apply_schema(CreateTable(COMMIT_LOG, DIMENSIONS))
    start = await pair[0].changes_since(None)
    assert start is not None
    position = start.position
    for n in range(5):
        async with await pattern_storage().open(options_of_pair) as visitor:
            await visitor.commit(logged([Insert(USERS, sample_row(USERS, f"u{n}"))], visitor.writer))
        found = await pair[0].changes_since(position)
        assert found is not None
        assert [change.id for commit in found.commits for change in commit.changes] == [f"u{n}"]
        position = found.position
    left = await pair[0].execute("SELECT VALUE owner FROM pattern_sessions GROUP BY owner")
    assert len(left) <= 3, "those who go take their rows along"


async def test_writers_do_not_wait_for_each_other(pair: tuple[Storage, Storage]) -> None:
    """Two writers that log commits of different records at once write no record in common."""
    for storage in pair:
        await storage.apply_schema(CreateTable(COMMIT_LOG, DIMENSIONS))

    async def write(storage: Storage, name: str) -> None:
        for n in range(20):
            await storage.commit(logged([Insert(USERS, sample_row(USERS, f"{name}{n}"))], storage.writer))

    await asyncio.gather(write(pair[0], "a"), write(pair[1], "b"))
    heads = await pair[0].execute("SELECT VALUE n FROM pattern_log ORDER BY n")
    assert heads == [20, 20]


async def test_a_commit_of_unknown_outcome_is_not_lost_to_the_log(pair: tuple[Storage, Storage]) -> None:
    """After cancelled commits, the log holds exactly the commits that took effect, under several writers."""
    await pair[0].apply_schema(CreateTable(COMMIT_LOG, DIMENSIONS))
    for n in range(10):
        batch = logged([Insert(USERS, sample_row(USERS, f"u{n}"))], pair[0].writer)
        writing = asyncio.create_task(pair[0].commit(batch))
        for _ in range(n):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
    await pair[0].commit(logged([Insert(USERS, sample_row(USERS, "last"))], pair[0].writer))
    found = await pair[1].changes_since(Position(0))
    assert found is not None
    ids = [change.id for commit in found.commits for change in commit.changes]
    assert sorted(ids) == [row["id"] for row in await pair[1].find(USERS)]
    assert {commit.writer for commit in found.commits} == {pair[0].writer}


async def test_a_cancelled_commit_takes_effect_or_does_not(pair: tuple[Storage, Storage]) -> None:
    """After a cancelled commit, its batch is there completely or not at all, and the next commit works."""
    for n in range(30):
        batch = [Insert(USERS, sample_row(USERS, f"u{n}")), agent(f"a{n}", user_id=f"u{n}")]
        writing = asyncio.create_task(pair[0].commit(batch))
        for _ in range(n):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
    await pair[0].commit([Insert(USERS, sample_row(USERS, "last"))])
    users = {row["id"] for row in await pair[0].find(USERS)} - {"last"}
    assert {row["user_id"] for row in await pair[0].find(AGENTS)} == users


async def test_a_gate_that_was_left_falls_shut(pair: tuple[Storage, Storage]) -> None:
    """If the process that raised the gate dies, others wait only until the gate expires."""
    await pair[0].commit([Insert(USERS, sample_row(USERS, "u"))])
    await pair[1].execute("UPSERT pattern_gate:main SET owner = 'dead', until = time::now() + 300ms")
    before = time.monotonic()
    await pair[0].commit([Insert(USERS, sample_row(USERS, "v"))])
    assert 0.1 < time.monotonic() - before < 5

"""The rules of `Storage.commit`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

from pattern_core.abc import Check, CheckNone, Delete, Insert, Patch, Put, Row, Storage, Write
from pattern_core.errors import AlreadyExistsError, ConflictError, NotFoundError, PatternError
from pattern_core.filters import Field
from pattern_core.schema import TABLES

from .contract import Contract
from .rows import TASKS, sample_row, sample_vector

__all__ = ["WriteRules"]

USERS = TABLES["users"]
AGENTS = TABLES["agents"]
MEMORIES = TABLES["memory_blocks"]


def _user(id: str, **columns: Any) -> Row:
    return sample_row(USERS, id, **columns)


def _agent(id: str, agent_type: str, **columns: Any) -> Row:
    return sample_row(AGENTS, id, user_id="u1", agent_type=agent_type, **columns)


async def _one(storage: Storage, id: str) -> Row | None:
    (row,) = await storage.get(USERS, [id])
    return row


_FAILING: Final[dict[str, tuple[Callable[[], Write], type[PatternError]]]] = {
    "insert over an id": (lambda: Insert(USERS, _user("there")), AlreadyExistsError),
    "insert over a unique key": (lambda: Insert(AGENTS, _agent("new", "taken")), AlreadyExistsError),
    "put over a unique key": (lambda: Put(AGENTS, _agent("other", "taken")), AlreadyExistsError),
    "patch onto a unique key": (lambda: Patch(AGENTS, "other", {"agent_type": "taken"}), AlreadyExistsError),
    "patch of a missing record": (lambda: Patch(USERS, "missing", {"revision": 2}), NotFoundError),
    "patch of another revision": (lambda: Patch(USERS, "there", {"revision": 9}, revision=8), ConflictError),
    "patch of a revision of a missing record": (lambda: Patch(USERS, "missing", {}, revision=1), ConflictError),
    "delete of another revision": (lambda: Delete(USERS, "there", revision=8), ConflictError),
    "delete of a revision of a missing record": (lambda: Delete(USERS, "missing", revision=1), ConflictError),
    "check of a missing record": (lambda: Check(USERS, "missing"), NotFoundError),
    "check of another revision": (lambda: Check(USERS, "there", revision=8), ConflictError),
    "check of a revision of a missing record": (lambda: Check(USERS, "missing", revision=1), ConflictError),
    "check that a record is absent": (lambda: Check(USERS, "there", revision=0), ConflictError),
    "check that no record fits": (lambda: CheckNone(AGENTS, Field("agent_type") == "taken"), ConflictError),
}


class WriteRules(Contract):
    """Writes: batches are atomic and ordered."""

    async def test_each_kind_of_write(self, storage: Storage) -> None:
        """`Insert` and `Put` write whole records, `Patch` sets some columns, `Delete` removes, `Check` changes nothing.

        If it fails: a put replaces all columns. A patch keeps the columns that it does not name.
        """
        await storage.commit([])
        await storage.commit([Insert(USERS, _user("a")), Put(USERS, _user("b")), Insert(USERS, _user("c"))])
        await storage.commit(
            [
                Put(USERS, _user("a", settings={"put": 1}, revision=2)),
                Patch(USERS, "b", {"settings": {"patched": 1}, "revision": 2}),
                Delete(USERS, "c"),
                Delete(USERS, "missing"),
                Check(USERS, "a"),
                Check(USERS, "a", revision=2),
                Check(USERS, "c", revision=0),
            ]
        )
        assert await storage.find(USERS) == [
            _user("a", settings={"put": 1}, revision=2),
            _user("b", settings={"patched": 1}, revision=2),
        ]

    async def test_a_patch_replaces_values(self, storage: Storage) -> None:
        """A patch replaces JSON objects and lists as a whole; None sets a column to null.

        If it fails: some engines merge objects on update. Set the column instead.
        """
        row = sample_row(TASKS, "t1", metadata={"a": {"x": 1}, "b": 2}, tags=["a", "b"], description="old")
        await storage.commit([Insert(TASKS, row)])
        changes: Row = {"metadata": {"a": {"y": None}}, "tags": [], "description": None}
        await storage.commit([Patch(TASKS, "t1", changes)])
        assert await storage.find(TASKS) == [_without_vector(row | changes)]

    async def test_an_empty_patch_changes_nothing(self, storage: Storage) -> None:
        """A patch without changes checks its preconditions, and changes nothing.

        If it fails: skip only the update, not the check before it.
        """
        await storage.commit([Insert(USERS, _user("a"))])
        await storage.commit([Patch(USERS, "a", {}), Patch(USERS, "a", {}, revision=1)])
        assert await storage.find(USERS) == [_user("a")]

    async def test_vectors_are_written_like_other_columns(self, storage: Storage) -> None:
        """A put replaces a vector, a patch of other columns keeps it, None sets it to null.

        If it fails: include the vector column in every write. A patch must not change a column that it does not name.
        """
        first, second = sample_vector("1"), sample_vector("2")
        await storage.commit([Insert(TASKS, sample_row(TASKS, "t1", embedding=first))])

        async def stored() -> Any:
            (row,) = await storage.find(TASKS, vectors=True)
            return row["embedding"]

        await storage.commit([Patch(TASKS, "t1", {"title": "new"})])
        assert np.array_equal(await stored(), first)
        await storage.commit([Put(TASKS, sample_row(TASKS, "t1", embedding=second))])
        assert np.array_equal(await stored(), second)
        await storage.commit([Patch(TASKS, "t1", {"embedding": first})])
        assert np.array_equal(await stored(), first)
        await storage.commit([Patch(TASKS, "t1", {"embedding": None})])
        assert await stored() is None

    async def test_check_none_sees_earlier_writes(self, storage: Storage) -> None:
        """`CheckNone` sees the effect of earlier writes in its batch, and writes nothing.

        If it fails: evaluate the filter inside the transaction, in the order of the writes.
        """
        of_u1 = Field("user_id") == "u1"
        await storage.commit([Insert(AGENTS, _agent("a1", "x")), Insert(USERS, _user("u1"))])
        with pytest.raises(ConflictError):
            await storage.commit([CheckNone(AGENTS, of_u1), Delete(AGENTS, "a1"), Delete(USERS, "u1")])
        assert await storage.count(AGENTS) == 1
        await storage.commit([Delete(AGENTS, "a1"), CheckNone(AGENTS, of_u1), Delete(USERS, "u1")])
        with pytest.raises(ConflictError):
            await storage.commit([Insert(AGENTS, _agent("a2", "y")), CheckNone(AGENTS, of_u1)])
        assert (await storage.count(AGENTS), await storage.count(USERS)) == (0, 0)

    @pytest.mark.parametrize("position", [0, 1, 2])
    @pytest.mark.parametrize("name", _FAILING)
    async def test_a_failed_write_rolls_back_the_batch(self, storage: Storage, name: str, position: int) -> None:
        """If any write of a batch fails, the error has the documented type, and nothing is written.

        If it fails: run the batch in one transaction of the engine, and check that it is rolled back.
        """
        before = {
            USERS: [_user("doomed"), _user("steady"), _user("there")],
            AGENTS: [_agent("owner", "taken"), _agent("other", "free")],
        }
        await storage.commit([Insert(table, row) for table, rows in before.items() for row in rows])
        make, error = _FAILING[name]
        batch: list[Write] = [Insert(USERS, _user("new")), Delete(USERS, "doomed")]
        batch.insert(position, make())
        batch.insert(0, Patch(USERS, "steady", {"revision": 7}))
        with pytest.raises(error) as caught:
            await storage.commit(batch)
        assert type(caught.value) is error
        for table, rows in before.items():
            assert await storage.find(table) == sorted(rows, key=lambda row: str(row["id"]))
        await storage.commit([Insert(USERS, _user("new"))])  # the storage still works

    async def test_errors_carry_the_table_and_the_key(self, storage: Storage) -> None:
        """The errors of a commit carry the table, the id or unique key, and the expected revision.

        If it fails: take the values from the write that failed, not from the engine's message. The expected
        revision is None if no record was expected.
        """
        await storage.commit([Insert(USERS, _user("there")), Insert(AGENTS, _agent("a1", "taken"))])
        with pytest.raises(AlreadyExistsError) as exists:
            await storage.commit([Insert(USERS, _user("there"))])
        assert (exists.value.table, exists.value.key) == ("users", {"id": "there"})
        with pytest.raises(AlreadyExistsError) as exists:
            await storage.commit([Insert(AGENTS, _agent("a2", "taken"))])
        assert (exists.value.table, exists.value.key) == ("agents", {"user_id": "u1", "agent_type": "taken"})
        with pytest.raises(ConflictError) as conflict:
            await storage.commit([Patch(USERS, "there", {}, revision=8)])
        assert (conflict.value.table, conflict.value.id, conflict.value.expected) == ("users", "there", 8)
        with pytest.raises(ConflictError) as conflict:
            await storage.commit([Check(USERS, "there", revision=0)])
        assert (conflict.value.table, conflict.value.id, conflict.value.expected) == ("users", "there", None)
        with pytest.raises(NotFoundError) as missing:
            await storage.commit([Patch(USERS, "missing", {})])
        assert (missing.value.table, missing.value.id) == ("users", "missing")

    async def test_writes_see_earlier_writes(self, storage: Storage) -> None:
        """Writes to one record in one batch, and their preconditions, take effect in order.

        If it fails: do not check all preconditions first. Do not group the writes by kind.
        """
        await storage.commit(
            [
                Check(USERS, "a", revision=0),
                Insert(USERS, _user("a")),
                Check(USERS, "a", revision=1),
                Patch(USERS, "a", {"revision": 2}, revision=1),
                Put(USERS, _user("a", revision=3, settings={"put": 1})),
                Patch(USERS, "a", {"revision": 4}, revision=3),
                Insert(USERS, _user("b")),
                Delete(USERS, "b", revision=1),
                Check(USERS, "b", revision=0),
                Insert(USERS, _user("c")),
                Delete(USERS, "c"),
                Insert(USERS, _user("c", revision=5)),
            ]
        )
        assert await storage.find(USERS) == [
            _user("a", revision=4, settings={"put": 1}),
            _user("c", revision=5),
        ]

    @pytest.mark.parametrize(
        ("batch", "error"),
        [
            ([Insert(USERS, _user("a")), Insert(USERS, _user("a"))], AlreadyExistsError),
            ([Insert(USERS, _user("a")), Delete(USERS, "a"), Patch(USERS, "a", {"revision": 2})], NotFoundError),
            ([Insert(USERS, _user("a")), Patch(USERS, "a", {"revision": 2}), Check(USERS, "a", 1)], ConflictError),
            ([Insert(USERS, _user("a")), Check(USERS, "a", 0)], ConflictError),
            ([Put(USERS, _user("a")), Insert(USERS, _user("a"))], AlreadyExistsError),
            ([Insert(AGENTS, _agent("a", "x")), Insert(AGENTS, _agent("b", "x"))], AlreadyExistsError),
        ],
        ids=["twice", "patch deleted", "old revision", "not absent", "insert over put", "one key"],
    )
    async def test_conflicts_within_a_batch(
        self, storage: Storage, batch: list[Write], error: type[PatternError]
    ) -> None:
        """A write that conflicts with an earlier one in its batch fails as if that one had been committed before.

        If it fails: run the writes one by one, inside the transaction.
        """
        with pytest.raises(error):
            await storage.commit(batch)
        assert await storage.count(USERS) == await storage.count(AGENTS) == 0

    async def test_unique_keys_are_enforced_and_freed(self, storage: Storage) -> None:
        """A unique key belongs to one record, and is free after the record gets another key or is deleted.

        If it fails: declare the key in the engine, over all its columns together.
        """
        await storage.commit([Insert(AGENTS, _agent("a", "x")), Insert(AGENTS, _agent("b", "y"))])
        await storage.commit([Put(AGENTS, _agent("a", "x", name="the same record may keep its key"))])
        await storage.commit([Insert(AGENTS, sample_row(AGENTS, "c", user_id="u2", agent_type="x"))])
        await storage.commit([Patch(AGENTS, "a", {"agent_type": "z"}), Insert(AGENTS, _agent("d", "x"))])
        await storage.commit([Delete(AGENTS, "d"), Patch(AGENTS, "b", {"agent_type": "x"})])
        found = {row["id"]: (row["user_id"], row["agent_type"]) for row in await storage.find(AGENTS)}
        assert found == {"a": ("u1", "z"), "b": ("u1", "x"), "c": ("u2", "x")}

    @pytest.mark.parametrize(
        ("first", "second"), [("a", "A"), ("é", "e\u0301"), ("a", "a "), ("ab", "a\x00b"), ("1", "01")]
    )
    async def test_unique_keys_compare_exactly(self, storage: Storage, first: str, second: str) -> None:
        """Unique keys that differ in case, spaces or Unicode normalization are different.

        If it fails: let the engine compare keys by bytes.
        """
        await storage.commit([Insert(AGENTS, _agent("1", first)), Insert(AGENTS, _agent("2", second))])
        assert await storage.count(AGENTS) == 2

    async def test_a_batch_may_be_long(self, storage: Storage) -> None:
        """A batch of a thousand writes is atomic.

        If it fails: do not split it into several transactions. If parameters are limited, bind all rows as one.
        """
        rows = [sample_row(MEMORIES, f"m{n:04}") for n in range(1000)]
        await storage.commit([Insert(MEMORIES, row) for row in rows])
        assert await storage.count(MEMORIES) == 1000
        batch: list[Write] = [Patch(MEMORIES, row["id"], {"revision": 2}) for row in rows]
        with pytest.raises(NotFoundError):
            await storage.commit([*batch, Check(MEMORIES, "missing")])
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {1}

    async def test_commit_copies_its_arguments(self, storage: Storage) -> None:
        """A commit does not change the given rows, and changing them later does not change the storage.

        If it fails: copy a row before changing or storing it.
        """
        row = sample_row(TASKS, "t1", tags=["a"], metadata={"a": [1]}, embedding=sample_vector("t1"))
        changes: Row = {"tags": ["b"], "metadata": {"b": {}}}
        given = copy.deepcopy((row, changes))
        await storage.commit([Insert(TASKS, row), Patch(TASKS, "t1", changes)])
        vector, other = row.pop("embedding"), given[0].pop("embedding")
        assert (row, changes) == given
        assert np.array_equal(vector, other)
        changes["tags"].append("c")
        changes["metadata"]["b"]["c"] = 1
        vector[:] = 0
        (found,) = await storage.find(TASKS, vectors=True)
        assert (found["tags"], found["metadata"]) == (["b"], {"b": {}})
        assert np.array_equal(found["embedding"], other)

    async def test_no_lost_updates(self, storage: Storage) -> None:
        """If several writers update one revision of a record, one succeeds and the others get `ConflictError`.

        If it fails: check the revision inside the transaction that writes. Convert the engine's own write conflicts to
        `ConflictError`, or retry them.
        """
        await storage.commit([Insert(USERS, _user("u1", settings={"count": 0}))])

        async def add_one() -> None:
            while True:
                row = await _one(storage, "u1")
                assert row is not None
                await asyncio.sleep(0)  # let the others read the same
                changes = {"revision": row["revision"] + 1, "settings": {"count": row["settings"]["count"] + 1}}
                try:
                    await storage.commit([Patch(USERS, "u1", changes, revision=row["revision"])])
                except ConflictError:
                    await asyncio.sleep(0)
                else:
                    return

        async def writer() -> None:
            for _ in range(3):
                await add_one()

        await asyncio.gather(*(writer() for _ in range(16)))
        row = await _one(storage, "u1")
        assert row is not None
        assert (row["settings"], row["revision"]) == ({"count": 48}, 49)

    async def test_one_of_several_inserts_succeeds(self, storage: Storage) -> None:
        """If several writers insert one unique key, one succeeds and the others get `AlreadyExistsError`.

        If it fails: let the engine enforce the key. A check in a transaction of its own does not prevent duplicates.
        """
        inserts = [storage.commit([Insert(AGENTS, _agent(f"a{n}", "same"))]) for n in range(16)]
        outcomes = await asyncio.gather(*inserts, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, AlreadyExistsError) for outcome in outcomes) == 15
        assert await storage.count(AGENTS) == 1

    async def test_unrelated_commits_all_succeed(self, storage: Storage) -> None:
        """Concurrent commits to different records all succeed.

        If it fails: retry a conflict of the engine if all preconditions hold, or serialize the commits with a lock.
        """
        rows = [_user(f"u{n:02}") for n in range(32)]
        await asyncio.gather(*(storage.commit([Insert(USERS, row)]) for row in rows))
        assert await storage.find(USERS) == rows

    async def test_readers_never_see_a_partial_batch(self, storage: Storage) -> None:
        """A reader sees all of a batch or none of it.

        If it fails: read from a snapshot, and write in one transaction.
        """
        await storage.commit([Insert(USERS, _user(f"u{n}")) for n in range(4)])
        done = asyncio.Event()

        async def write() -> None:
            for revision in range(2, 22):
                await storage.commit([Patch(USERS, f"u{n}", {"revision": revision}) for n in range(4)])
            done.set()

        async def read() -> None:
            while not done.is_set():
                assert len({row["revision"] for row in await storage.find(USERS)}) == 1
                await asyncio.sleep(0)

        await asyncio.gather(write(), read(), read())

    @pytest.mark.parametrize("iterations", [0, 1, 2, 3, 5, 8])
    async def test_a_cancelled_commit_is_atomic(self, storage: Storage, iterations: int) -> None:
        """A cancelled commit takes effect completely or not at all, and later commits work.

        If it fails: shield the transaction from cancellation, and release locks in ``finally``.
        """
        writer = asyncio.create_task(storage.commit([Insert(USERS, _user("a")), Insert(USERS, _user("b"))]))
        for _ in range(iterations):
            await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        assert len(await storage.find(USERS)) in {0, 2}
        await storage.commit([Put(USERS, _user("a", revision=5)), Put(USERS, _user("b", revision=5))])
        assert await storage.find(USERS) == [_user("a", revision=5), _user("b", revision=5)]


def _without_vector(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "embedding"}

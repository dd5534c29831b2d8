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
    """One batch: in order, all or nothing."""

    async def test_the_writes_do_what_they_say(self, storage: Storage) -> None:
        """Insert and put write a whole record, patch sets some columns, delete removes, check changes nothing.

        If it fails: a put replaces every column; a patch leaves alone those that it does not name.
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

    async def test_a_patch_sets_a_column_as_a_whole(self, storage: Storage) -> None:
        """A patch replaces a JSON object or list, it does not merge into it; None sets null.

        If it fails: some engines merge objects on update; set the column instead.
        """
        row = sample_row(TASKS, "t1", metadata={"a": {"x": 1}, "b": 2}, tags=["a", "b"], description="old")
        await storage.commit([Insert(TASKS, row)])
        changes: Row = {"metadata": {"a": {"y": None}}, "tags": [], "description": None}
        await storage.commit([Patch(TASKS, "t1", changes)])
        assert await storage.find(TASKS) == [_without_vector(row | changes)]

    async def test_a_patch_of_nothing_changes_nothing(self, storage: Storage) -> None:
        """A patch without changes still has its preconditions, and changes nothing.

        If it fails: leave out the engine's update, not the check before it.
        """
        await storage.commit([Insert(USERS, _user("a"))])
        await storage.commit([Patch(USERS, "a", {}), Patch(USERS, "a", {}, revision=1)])
        assert await storage.find(USERS) == [_user("a")]

    async def test_vectors_are_put_patched_and_cleared(self, storage: Storage) -> None:
        """A vector is a column like any other: a put replaces it, a patch of others keeps it, None clears it.

        If it fails: see that the vector's column is part of every write, and that a patch does not touch it unasked.
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

    async def test_a_check_for_none_sees_the_writes_before_it(self, storage: Storage) -> None:
        """That no record satisfies a filter is decided by what the batch has left so far, and writes nothing.

        If it fails: evaluate the filter inside the transaction, at its place among the other writes.
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
    async def test_a_failing_write_undoes_the_batch(self, storage: Storage, name: str, position: int) -> None:
        """Whichever write of a batch fails, first, in the middle or last, the error is typed and nothing is written.

        If it fails: put the batch into one transaction of the engine, and check that it was rolled back.
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
        await storage.commit([Insert(USERS, _user("new"))])  # it works on

    async def test_errors_say_what_was_at_fault(self, storage: Storage) -> None:
        """The errors of a commit carry the table, the id or key, and the revision that was expected.

        If it fails: raise the error from the write at fault, not from the engine's message; None stands for absent.
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

    async def test_each_write_sees_those_before_it(self, storage: Storage) -> None:
        """Writes to one record in one batch take effect one after the other, preconditions included.

        If it fails: do not check all preconditions first; do not group the writes by kind.
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
    async def test_writes_of_one_batch_clash(
        self, storage: Storage, batch: list[Write], error: type[PatternError]
    ) -> None:
        """A write that clashes with one before it in the same batch fails as if that had been committed before.

        If it fails: let the engine carry out the writes one by one, inside the transaction.
        """
        with pytest.raises(error):
            await storage.commit(batch)
        assert await storage.count(USERS) == await storage.count(AGENTS) == 0

    async def test_unique_keys_are_kept_and_freed(self, storage: Storage) -> None:
        """A unique key belongs to one record; it is free again once that has another key or is gone.

        If it fails: declare the key in the engine, over all of its columns together.
        """
        await storage.commit([Insert(AGENTS, _agent("a", "x")), Insert(AGENTS, _agent("b", "y"))])
        await storage.commit([Put(AGENTS, _agent("a", "x", name="its own key is no clash"))])
        await storage.commit([Insert(AGENTS, sample_row(AGENTS, "c", user_id="u2", agent_type="x"))])
        await storage.commit([Patch(AGENTS, "a", {"agent_type": "z"}), Insert(AGENTS, _agent("d", "x"))])
        await storage.commit([Delete(AGENTS, "d"), Patch(AGENTS, "b", {"agent_type": "x"})])
        found = {row["id"]: (row["user_id"], row["agent_type"]) for row in await storage.find(AGENTS)}
        assert found == {"a": ("u1", "z"), "b": ("u1", "x"), "c": ("u2", "x")}

    @pytest.mark.parametrize(
        ("first", "second"), [("a", "A"), ("é", "e\u0301"), ("a", "a "), ("ab", "a\x00b"), ("1", "01")]
    )
    async def test_unique_keys_compare_exactly(self, storage: Storage, first: str, second: str) -> None:
        """Keys that differ in case, in spaces or in how they are composed are different keys.

        If it fails: let the engine compare keys by their bytes.
        """
        await storage.commit([Insert(AGENTS, _agent("1", first)), Insert(AGENTS, _agent("2", second))])
        assert await storage.count(AGENTS) == 2

    async def test_a_batch_may_be_long(self, storage: Storage) -> None:
        """A batch of a thousand writes is one batch.

        If it fails: it must not be split into several transactions; bind its rows as one parameter, say.
        """
        rows = [sample_row(MEMORIES, f"m{n:04}") for n in range(1000)]
        await storage.commit([Insert(MEMORIES, row) for row in rows])
        assert await storage.count(MEMORIES) == 1000
        batch: list[Write] = [Patch(MEMORIES, row["id"], {"revision": 2}) for row in rows]
        with pytest.raises(NotFoundError):
            await storage.commit([*batch, Check(MEMORIES, "missing")])
        assert {row["revision"] for row in await storage.find(MEMORIES)} == {1}

    async def test_what_was_given_is_left_alone(self, storage: Storage) -> None:
        """A commit does not change the rows that it was given, nor does changing them later change the storage.

        If it fails: copy a row before adding or turning columns in it.
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

    async def test_no_update_is_lost(self, storage: Storage) -> None:
        """Of writers that read one revision, one wins and the others get `ConflictError`; nothing is lost.

        If it fails: check the revision inside the transaction that writes; turn the engine's own conflicts into
        `ConflictError`, or repeat them.
        """
        await storage.commit([Insert(USERS, _user("u1", settings={"count": 0}))])

        async def add_one() -> None:
            while True:
                row = await _one(storage, "u1")
                assert row is not None
                await asyncio.sleep(0)  # let the others read the same
                changes = {"revision": row["revision"] + 1, "settings": {"count": row["settings"]["count"] + 1}}
                try:
                    return await storage.commit([Patch(USERS, "u1", changes, revision=row["revision"])])
                except ConflictError:
                    await asyncio.sleep(0)

        async def writer() -> None:
            for _ in range(3):
                await add_one()

        await asyncio.gather(*(writer() for _ in range(16)))
        row = await _one(storage, "u1")
        assert row is not None
        assert (row["settings"], row["revision"]) == ({"count": 48}, 49)

    async def test_one_insert_of_many_wins(self, storage: Storage) -> None:
        """Of writers that insert one unique key at once, one wins and the others get `AlreadyExistsError`.

        If it fails: two indexes of one transaction each, without a lock, make duplicates; let the engine decide.
        """
        inserts = [storage.commit([Insert(AGENTS, _agent(f"a{n}", "same"))]) for n in range(16)]
        outcomes = await asyncio.gather(*inserts, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, AlreadyExistsError) for outcome in outcomes) == 15
        assert await storage.count(AGENTS) == 1

    async def test_writers_of_different_records_all_win(self, storage: Storage) -> None:
        """Commits that have nothing to do with each other all succeed, however many run at once.

        If it fails: repeat what the engine calls a conflict while no precondition is hurt, or write one after the other.
        """
        rows = [_user(f"u{n:02}") for n in range(32)]
        await asyncio.gather(*(storage.commit([Insert(USERS, row)]) for row in rows))
        assert await storage.find(USERS) == rows

    async def test_readers_never_see_half_a_batch(self, storage: Storage) -> None:
        """A reader sees all of a batch or none of it.

        If it fails: read from a snapshot; write in one transaction.
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

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
    async def test_a_cancelled_commit_is_whole_or_absent(self, storage: Storage, turns: int) -> None:
        """A commit whose caller is cancelled takes effect as a whole or not at all, and the storage works on.

        If it fails: do not give up a transaction or a lock halfway; shield the write, release the lock in ``finally``.
        """
        writer = asyncio.create_task(storage.commit([Insert(USERS, _user("a")), Insert(USERS, _user("b"))]))
        for _ in range(turns):
            await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        assert len(await storage.find(USERS)) in {0, 2}
        await storage.commit([Put(USERS, _user("a", revision=5)), Put(USERS, _user("b", revision=5))])
        assert await storage.find(USERS) == [_user("a", revision=5), _user("b", revision=5)]


def _without_vector(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "embedding"}

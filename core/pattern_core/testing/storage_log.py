"""The rules of the commit log: `Append`, and `Storage.changes_since`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Final

import pytest

from pattern_core.abc import Change, Changes, Commit, Delete, Insert, Patch, Position, Storage, Write
from pattern_core.catalog import commit_log
from pattern_core.catalog.commit_log import log_reset, logged, outdated_entries
from pattern_core.errors import AlreadyExistsError, ConflictError
from pattern_core.schema import COMMIT_LOG, TABLES

from .child_processes import ChildProcessRules, Start
from .contract import Contract
from .rows import sample_row

__all__ = ["LogProcessRules", "LogRules", "write_logged"]

USERS = TABLES["users"]
KILLS: Final = 3
"""How many times one test kills a writer."""
WRITERS: Final = 3
"""How many processes write at the same time."""

Open = Callable[[], Awaitable[Storage]]


async def _commit(storage: Storage, *batch: Write) -> Position:
    """Commit a batch with its entry in the log, as core does."""
    position = await storage.commit(logged(batch, storage.writer))
    assert position is not None, "a batch with an Append has a position"
    return position


async def _newest(storage: Storage) -> Position:
    found = await storage.changes_since(None)
    assert found is not None, "the newest position is always known"
    assert not found.commits
    return found.position


async def _since(storage: Storage, position: Position) -> Changes:
    found = await storage.changes_since(position)
    assert found is not None, "the log holds this position"
    return found


def _insert(id: str) -> Insert:
    return Insert(USERS, sample_row(USERS, id))


def _ids(commits: tuple[Commit, ...]) -> list[str]:
    return [change.id for commit in commits for change in commit.changes]


async def write_logged(pipe: Connection, open_storage: Open, name: str, commits: int) -> None:
    """Insert, change and delete records, and send how many commits were acknowledged after each."""
    async with await open_storage() as storage:
        pipe.send("ready")
        pipe.recv()
        for number in range(commits):
            id = f"{name} {number:06}"
            await _persist(storage, _insert(id))
            if number % 3 == 1:
                await _persist(storage, Patch(USERS, id, {"revision": 2}, 1))
            if number % 3 == 2:
                await _persist(storage, Delete(USERS, id, 1))
            pipe.send(number)
        pipe.send("done")


async def _persist(storage: Storage, write: Write) -> None:
    while True:
        try:
            await _commit(storage, write)
        except ConflictError:
            await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - spreads the retries of the processes
        else:
            return


class LogRules(Contract):
    """The commit log: every commit is in it once, in order."""

    async def test_the_log_lists_the_commits_after_a_position(self, storage: Storage) -> None:
        """`changes_since` lists the commits after a position, each with its changes in the order of the writes.

        If it fails: `Append` numbers the rows of the log inside the transaction. `commit` returns the position of its own
        `Append`.
        """
        first = await _commit(storage, _insert("a"), _insert("b"))
        second = await _commit(storage, Patch(USERS, "a", {"revision": 2}, 1), Delete(USERS, "b", 1))
        assert (await _since(storage, second)).commits == ()
        found = await _since(storage, first)
        (commit,) = found.commits
        assert commit.writer == storage.writer
        assert commit.changes == (Change("users", "a", None, "update", 2), Change("users", "b", None, "delete", 1))
        assert (await _since(storage, found.position)).commits == ()
        everything = await _since(storage, Position(0))
        assert _ids(everything.commits) == ["a", "b", "a", "b"]
        for number, each in enumerate(everything.commits):
            assert (await _since(storage, each.position)).commits == everything.commits[number + 1 :]

    async def test_an_empty_log_has_a_position(self, storage: Storage) -> None:
        """Before the first commit there is a position, and the commits after it are all commits.

        If it fails: `changes_since(None)` works on an empty log.
        """
        before = await _newest(storage)
        assert (await _since(storage, before)).commits == ()
        await _commit(storage, _insert("a"))
        assert _ids((await _since(storage, before)).commits) == ["a"]

    async def test_pages_of_the_log(self, storage: Storage) -> None:
        """`changes_since` returns at most ``limit`` commits, and says that there may be more.

        If it fails: return the position after the last commit that you return.
        """
        start = await _newest(storage)
        for number in range(7):
            await _commit(storage, _insert(f"u{number}"))
        position, seen = start, []
        for _ in range(8):
            found = await storage.changes_since(position, limit=3)
            assert found is not None
            assert len(found.commits) <= 3
            seen += _ids(found.commits)
            position = found.position
            if not found.more:
                break
        assert seen == [f"u{number}" for number in range(7)]

    async def test_a_failed_commit_is_not_in_the_log(self, storage: Storage) -> None:
        """A commit that fails leaves no entry, and the next one is not missed.

        If it fails: the entry is part of the transaction.
        """
        start = await _commit(storage, _insert("a"))
        with pytest.raises(AlreadyExistsError):
            await _commit(storage, _insert("b"), _insert("a"))
        assert (await _since(storage, start)).commits == ()
        await _commit(storage, _insert("c"))
        assert _ids((await _since(storage, start)).commits) == ["c"]

    async def test_unknown_positions(self, storage: Storage) -> None:
        """For a position of another database, and one that was removed from the log, the log says that it cannot tell.

        If it fails: `changes_since` compares the token of the position with the log.
        """
        first = await _commit(storage, _insert("a"))
        await _commit(storage, _insert("b"))
        newest = await _commit(storage, _insert("c"))
        assert await storage.changes_since(Position(first.sequence, "0123456789abcdef")) is None
        assert await storage.changes_since(Position(first.sequence + 1000, "0123456789abcdef")) is None
        rows = await storage.find(COMMIT_LOG)
        kept = max(rows, key=lambda row: row["sequence"])["id"]
        await storage.commit([Delete(COMMIT_LOG, row["id"]) for row in rows if row["id"] != kept])
        assert await storage.changes_since(first) is None
        assert await storage.changes_since(Position(0)) is None
        await _commit(storage, _insert("d"))
        assert _ids((await _since(storage, newest)).commits) == ["d"]

    async def test_old_entries_can_be_removed(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Core finds the entries that the log need not keep, by age and number. The newest position stays known.

        If it fails: `find` orders by `committed_at` and `sequence`, and `Delete` removes rows of the log.
        """
        for number in range(8):
            await _commit(storage, _insert(f"u{number}"))
        position = await _newest(storage)
        assert await outdated_entries(storage, 100) == []
        monkeypatch.setattr(commit_log, "KEPT_COMMITS", 5)
        surplus = await outdated_entries(storage, 100)
        assert len(surplus) == 3
        await storage.commit(surplus)
        monkeypatch.setattr(commit_log, "KEPT_DAYS", -1)
        await storage.commit(await outdated_entries(storage, 100))
        assert await storage.count(COMMIT_LOG) == 1
        await _commit(storage, _insert("last"))
        assert _ids((await _since(storage, position)).commits) == ["last"]

    async def test_a_reset_is_not_stepped_over(self, storage: Storage) -> None:
        """After an entry that says that everything may have changed, older positions are unknown.

        If it fails: `changes_since` returns None if one of the rows describes no changes.
        """
        before = await _commit(storage, _insert("a"))
        await storage.commit([log_reset(storage.writer)])
        after = await _newest(storage)
        await _commit(storage, _insert("b"))
        assert await storage.changes_since(before) is None
        assert _ids((await _since(storage, after)).commits) == ["b"]

    async def test_concurrent_commits_are_all_in_the_log(self, storage: Storage) -> None:
        """A follower that looks while many commits are in flight sees each of them once.

        If it fails: a number becomes visible before a smaller one. Number and commit under one lock.
        """
        position = await _newest(storage)
        seen: Counter[str] = Counter()
        writers = [asyncio.create_task(_persist(storage, _insert(f"u{number}"))) for number in range(20)]
        while not all(writer.done() for writer in writers):
            await asyncio.sleep(0)
            found = await _since(storage, position)
            seen.update(_ids(found.commits))
            position = found.position
        await asyncio.gather(*writers)
        seen.update(_ids((await _since(storage, position)).commits))
        assert seen == Counter({f"u{number}": 1 for number in range(20)})

    async def test_a_cancelled_commit_agrees_with_the_log(self, storage: Storage) -> None:
        """A commit that was cancelled has an entry if it took effect, and none if it did not.

        If it fails: write the entry in the same transaction.
        """
        start = await _newest(storage)
        for number in range(10):
            task = asyncio.create_task(_commit(storage, _insert(f"u{number}")))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await _commit(storage, _insert("last"))
        logged_ids = _ids((await _since(storage, start)).commits)
        assert sorted(logged_ids) == sorted(row["id"] for row in await storage.find(USERS))


class LogProcessRules(ChildProcessRules):
    """The commit log, if several processes write, or one is killed."""

    async def test_a_killed_process_leaves_a_true_log(self, tables: None, open_storage: Open, start: Start) -> None:
        """After ``kill -9`` at any time, a follower's copy of the records equals the database.

        If it fails: the entry is part of the transaction, and survives with it.
        """
        copy: set[str] = set()
        position = Position(0)
        generator = random.Random(1)  # noqa: S311 - kills at the same times in each run
        for kill in range(KILLS):
            child = start(write_logged, open_storage, f"writer {kill}", 1000)
            assert await child.receive() == "ready"
            child.pipe.send("go")
            for _ in range(generator.randrange(2, 12)):
                await child.receive()
            await child.kill()
            async with await open_storage() as storage:
                position = await _follow(storage, position, copy)
                assert copy == {row["id"] for row in await storage.find(USERS)}

    async def test_a_follower_of_several_processes(self, shared: Storage, open_storage: Open, start: Start) -> None:
        """A follower sees every commit of several processes once, and the commits of one record in order.

        If it fails: two commits are in flight, and the later number becomes visible first.
        """
        position, copy = await _newest(shared), set[str]()
        names = [f"writer {number}" for number in range(WRITERS)]
        children = [start(write_logged, open_storage, name, 30) for name in names]
        for child in children:
            assert await child.receive() == "ready"
        for child in children:
            child.pipe.send("go")
        for child in children:
            while await child.receive() != "done":
                position = await _follow(shared, position, copy)
        await _follow(shared, position, copy)
        assert copy == {row["id"] for row in await shared.find(USERS)}
        assert len(copy) == WRITERS * 20


async def _follow(storage: Storage, position: Position, copy: set[str]) -> Position:
    """Apply the changes after a position to a copy of the ids; fail if a change does not suit the copy."""
    more = True
    while more:
        found = await _since(storage, position)
        for change in (change for commit in found.commits for change in commit.changes):
            assert (change.id in copy) == (change.kind != "create"), f"twice, skipped or in the wrong order: {change}"
            if change.kind == "create":
                copy.add(change.id)
            elif change.kind == "delete":
                copy.remove(change.id)
        position, more = found.position, found.more
    return position

"""Transactions: staged edits, reads that see them, and conflicts."""

from __future__ import annotations

import asyncio

import pytest

from pattern_core.database import Database, Repositories
from pattern_core.errors import AlreadyExistsError, ClosedError, ConflictError, NotFoundError, ReferencedError
from pattern_core.filters import Field

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("people")]


class TestVisibility:
    async def test_writes_are_visible_after_the_commit(self, db: Database) -> None:
        """Others see no write before the end, and all writes after it."""
        async with db.transaction() as tx:
            user = await tx.users.create(id="bob")
            agent = await tx.agents.create(user_id=user.id, agent_type="archive", name="B", id="bobs")
            await tx.memories.create(agent_id=agent.id, label="tea", content="Bob drinks green tea.")
            assert await db.users.find("bob") is None
            assert await db.memories.count() == 0

        assert (await db.memories.by_label("bobs", "tea")).revision == 1
        assert len(await db.memories.search_semantic("bobs", "green tea")) == 1

    async def test_an_exception_discards(self, db: Database) -> None:
        """An exception in the block discards all writes."""

        async def fail() -> None:
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="b")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            await fail()

        assert await db.memories.count() == 0
        assert await db.memories.search_semantic("archive", "b") == []

    async def test_reads_see_writes(self, db: Database) -> None:
        """`get`, `find`, `list`, `count` and `search` see the transaction's own writes."""
        keep = await db.memories.create(agent_id="archive", label="keep", content="keep this text")
        change = await db.memories.create(agent_id="archive", label="change", content="old words here")
        gone = await db.memories.create(agent_id="archive", label="gone", content="gone text")
        async with db.transaction() as tx:
            new = await tx.memories.create(agent_id="archive", label="new", content="green tea")
            changed = await tx.memories.update(change.id, content="black tea")
            await tx.memories.delete(gone.id)
            assert await tx.memories.get(new.id) == new
            assert await tx.memories.get(change.id) == changed
            assert await tx.memories.find(gone.id) is None
            assert [each.label for each in await tx.memories.list(order="label")] == ["change", "keep", "new"]
            assert [each.label for each in await tx.memories.list(order="-label", limit=2)] == ["new", "keep"]
            assert await tx.memories.count() == 3
            assert await tx.memories.count(Field("content").contains("tea")) == 2
            hits = await tx.memories.search_semantic("archive", "black tea")
            assert [hit.memory.label for hit in hits] == ["change", "new", "keep"]
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert (await tx.memories.get(new.id, with_embedding=True)).embedding is not None

        after = await db.memories.search_semantic("archive", "black tea")
        assert [hit.memory.id for hit in after] == [hit.memory.id for hit in hits]
        assert [hit.score for hit in after] == pytest.approx([hit.score for hit in hits], abs=1e-6)
        assert keep.id in {hit.memory.id for hit in after}

    async def test_ties_come_by_id(self, db: Database) -> None:
        """Records with equal scores come by id, in a transaction and outside, whatever characters the ids contain."""
        ids = ["a", "a!", "a b", 'a"', "a-1"]
        for id in ids:
            await db.memories.create(agent_id="archive", label=id, content="same text", id=id)
        assert [hit.record.id for hit in await db.memories.search_semantic("archive", "same text")] == sorted(ids)
        assert [hit.record.id for hit in await db.memories.search_semantic("archive", "same text", limit=2)] == sorted(
            ids
        )[:2]
        async with db.transaction() as tx:
            assert [hit.record.id for hit in await tx.memories.search_semantic("archive", "same text")] == sorted(ids)

    async def test_a_change_of_other_fields_keeps_the_vector(self, db: Database) -> None:
        """A record whose text the transaction has not changed is scored by its stored vector."""
        made = await db.memories.create(agent_id="archive", label="a", content="green tea")
        async with db.transaction() as tx:
            await tx.memories.update(made, label="b")
            (hit,) = await tx.memories.search_semantic("archive", "green tea")
            assert hit.memory.label == "b"
            assert hit.score == pytest.approx(1, abs=1e-5)

    async def test_several_changes_are_one_revision(self, db: Database) -> None:
        """Several changes of a record in one transaction are one revision."""
        async with db.transaction() as tx:
            for n in range(5):
                await tx.agents.save_state("archive", {"n": n})
        agent = await db.agents.get("archive")

        assert (agent.revision, agent.state) == (2, {"n": 4})

    async def test_a_later_change_keeps_the_new_vector(self, db: Database) -> None:
        """A change of other fields after a change of the text keeps the vector of the new text."""
        made = await db.memories.create(agent_id="archive", label="a", content="alpha beta gamma")
        async with db.transaction() as tx:
            await tx.memories.update(made.id, content="zebra stripes")
            await tx.memories.update(made.id, description="an animal")
            new = await tx.memories.create(agent_id="archive", label="b", content="green tea")
            await tx.memories.update(new.id, description="a drink")
            await tx.memories.upsert("archive", "c", "first words")
            await tx.memories.upsert("archive", "c", "second words")
            task = await tx.tasks.create(user_id="ada", title="Write")
            await tx.tasks.start(task.id)

        for text in ("zebra stripes", "green tea", "second words"):
            (hit, *_) = await db.memories.search_semantic("archive", text)
            assert hit.memory.content == text
            assert hit.score == pytest.approx(1, abs=1e-5)
        assert (await db.tasks.get(task.id)).started_at is not None

    async def test_returned_records_are_committed(self, db: Database) -> None:
        """A record that a transaction returns, including its revision, is the committed record."""
        async with db.transaction() as tx:
            await tx.users.update("ada", settings={"n": 1})
            changed = await tx.users.update("ada", settings={"n": 2})
            created = await tx.users.create(id="bob")
            created = await tx.users.update(created, metadata={"n": 3})

        assert await db.users.get("ada") == changed
        assert await db.users.get("bob") == created
        assert (changed.revision, created.revision) == (2, 1)

    async def test_a_call_that_fails_stages_nothing(self, db: Database) -> None:
        """A failed call of several records stages none of them, and the transaction can continue."""
        async with db.transaction() as tx:
            with pytest.raises(AlreadyExistsError):
                await tx.users.create_many([{"id": "bob"}, {"id": "dup"}, {"id": "dup"}])
            await tx.users.create(id="eve")

        assert sorted([user.id async for user in db.users.iterate()]) == ["ada", "eve"]

    async def test_a_label_moves(self, db: Database) -> None:
        """A label that one memory gives up can be given to another, in any order of the changes."""
        p = await db.memories.create(agent_id="archive", label="p", content="one")
        q = await db.memories.create(agent_id="archive", label="q", content="two")
        async with db.transaction() as tx:
            await tx.memories.update(p.id, description="touched first")
            await tx.memories.update(q.id, label="r")
            await tx.memories.update(p.id, label="q")

        assert (await db.memories.by_label("archive", "q")).id == p.id

    async def test_created_and_deleted(self, db: Database) -> None:
        """A record that is created and deleted in one transaction is not written."""
        async with db.transaction() as tx:
            made = await tx.memories.create(agent_id="archive", label="a", content="b")
            await tx.memories.update(made.id, content="c")
            await tx.memories.delete(made.id)

        assert await db.memories.count() == 0

    async def test_a_deleted_label_is_free(self, db: Database) -> None:
        """The label of a deleted memory is free in the same transaction."""
        old = await db.memories.create(agent_id="archive", label="a", content="old")
        async with db.transaction() as tx:
            await tx.memories.delete(old.id)
            await tx.memories.create(agent_id="archive", label="a", content="new")

        assert (await db.memories.by_label("archive", "a")).content == "new"

    async def test_cascade(self, db: Database) -> None:
        """A cascade includes the records that the transaction has created."""
        await db.memories.create(agent_id="archive", label="a", content="b")
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="c", content="d")
            with pytest.raises(ReferencedError) as caught:
                await tx.agents.delete("archive")
            assert caught.value.by == {"memory_blocks": 2}
            assert await tx.agents.delete("archive", cascade=True) == {"agents": 1, "memory_blocks": 2}

        assert await db.memories.count() == 0


class TestConflicts:
    async def test_a_changed_record(self, db: Database) -> None:
        """A commit conflicts if a record that the transaction wrote or only read has changed."""
        for write in (True, False):
            with pytest.raises(ConflictError):
                async with db.transaction() as tx:
                    agent = await tx.agents.get("archive")
                    if write:
                        await tx.agents.save_state(agent, {"by": "transaction"})
                    else:
                        await tx.memories.create(agent_id="archive", label="a", content="b")
                    await db.agents.save_state("archive", {"by": str(write)})

        assert (await db.agents.get("archive")).state == {"by": "False"}
        assert await db.memories.count() == 0

    async def test_a_record_that_was_missing(self, db: Database) -> None:
        """A commit conflicts if a record that the transaction found missing has been created."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                assert await tx.users.find("bob") is None
                await tx.agents.save_state("archive", {"n": 1})
                await db.users.create(id="bob")

        assert (await db.agents.get("archive")).state == {}

    async def test_a_taken_label(self, db: Database) -> None:
        """A commit conflicts if a key that was free when it was staged is taken."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="mine")
                await db.memories.create(agent_id="archive", label="a", content="theirs")

        assert (await db.memories.by_label("archive", "a")).content == "theirs"

    async def test_a_deleted_parent(self, db: Database) -> None:
        """A commit conflicts if the parent of a new record has been deleted."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.memories.create(agent_id="archive", label="a", content="b")
                await db.agents.delete("archive")

        assert await db.memories.count() == 0

    async def test_a_changed_parent(self, db: Database) -> None:
        """A change of the parent of a new record is no conflict."""
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="a", content="b")
            await db.agents.save_state("archive", {"n": 1})

        assert await db.memories.count() == 1

    async def test_mistakes_are_raised_at_once(self, db: Database) -> None:
        """An edit that cannot succeed raises its error at the call, not at the commit."""
        async with db.transaction() as tx:
            await tx.memories.create(agent_id="archive", label="a", content="b", id="one")
            with pytest.raises(AlreadyExistsError):
                await tx.memories.create(agent_id="archive", label="a", content="c")
            with pytest.raises(AlreadyExistsError):
                await tx.memories.create(agent_id="archive", label="c", content="c", id="one")
            with pytest.raises(NotFoundError):
                await tx.memories.create(agent_id="nobody", label="a", content="b")
            with pytest.raises(NotFoundError):
                await tx.agents.update("nobody", name="x")

        assert [each.id for each in await db.memories.list()] == ["one"]

    async def test_reading_only(self, db: Database) -> None:
        """A transaction that only reads has no conflicts."""
        async with db.transaction() as tx:
            await tx.agents.get("archive")
            await db.agents.save_state("archive", {"n": 1})

    async def test_a_changed_record_is_detected_on_reading(self, db: Database) -> None:
        """Reading a record again that has changed meanwhile raises `ConflictError`."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.agents.get("archive")
                await db.agents.save_state("archive", {"n": 1})
                await tx.agents.list()

    async def test_new_children_of_a_deleted_parent(self, db: Database) -> None:
        """A cascade conflicts if a child has been created meanwhile; a retry deletes it, too."""
        with pytest.raises(ConflictError):
            async with db.transaction() as tx:
                await tx.agents.delete("planner", cascade=True)
                await db.memories.create(agent_id="planner", label="late", content="late")
        assert await db.agents.find("planner") is not None

        assert await db.run(lambda tx: tx.agents.delete("planner", cascade=True)) == {"agents": 1, "memory_blocks": 1}
        assert await db.memories.count() == 0

    async def test_a_call_in_a_transaction_is_not_retried(self, db: Database) -> None:
        """In `run`, a conflict ends the call at once, and the whole transaction is retried."""
        runs = 0

        async def work(tx: Repositories) -> None:
            nonlocal runs
            runs += 1
            await tx.agents.get("archive")
            if runs < 3:
                await db.agents.save_state("archive", {"run": runs})
            await tx.agents.update("archive", name=f"run {runs}")
            await db.users.set_settings("ada", run=runs)

        await asyncio.wait_for(db.run(work), 10)
        assert (runs, (await db.agents.get("archive")).name) == (3, "run 3")

    async def test_after_the_end(self, db: Database) -> None:
        """A transaction that has ended raises `ClosedError`."""
        async with db.transaction() as tx:
            pass
        with pytest.raises(ClosedError, match="ended"):
            await tx.users.get("ada")


class TestRun:
    async def test_concurrent_updates(self, db: Database) -> None:
        """Of fifty concurrent increments of one record with `run`, none is lost."""

        async def increment(tx: Repositories) -> int:
            agent = await tx.agents.get("archive")
            count = int(agent.state.get("count", 0)) + 1
            await tx.agents.save_state(agent, {"count": count})
            return count

        counts = await asyncio.gather(*(db.run(increment) for _ in range(50)))

        assert (await db.agents.get("archive")).state == {"count": 50}
        assert sorted(counts) == list(range(1, 51))

    async def test_get_or_create(self, db: Database) -> None:
        """Concurrent transactions that create a record if it is missing create one, without an error."""

        async def ensure(tx: Repositories) -> str:
            found = await tx.memories.list((Field("agent_id") == "archive") & (Field("label") == "once"))
            made = found[0] if found else await tx.memories.create(agent_id="archive", label="once", content="x")
            return made.id

        ids = await asyncio.gather(*(db.run(ensure) for _ in range(10)))

        assert len(set(ids)) == 1

    async def test_attempts_are_limited(self, db: Database) -> None:
        """A transaction that always conflicts raises `ConflictError` after the given number of attempts."""
        runs: list[int] = []

        async def clash(tx: Repositories) -> None:
            runs.append(len(runs))
            agent = await tx.agents.get("archive")
            await db.agents.save_state("archive", {"run": len(runs)})
            await tx.agents.save_state(agent, {"mine": True})

        for attempts in (1, 2, 4):
            before = len(runs)
            with pytest.raises(ConflictError):
                await db.run(clash, attempts=attempts)
            assert len(runs) == before + attempts

    async def test_other_errors_are_not_retried(self, db: Database) -> None:
        """An error that is no conflict is raised at once."""
        runs = 0

        async def fail(tx: Repositories) -> None:
            nonlocal runs
            runs += 1
            await tx.users.get("nobody")

        with pytest.raises(NotFoundError):
            await db.run(fail)

        assert runs == 1


class TestCancellation:
    async def test_a_cancelled_write_is_all_or_nothing(self, db: Database) -> None:
        """A cancelled call writes all of its records or none, and searches find those that are written."""
        for n in range(15):
            records = [{"agent_id": "archive", "label": f"{n}-{k}", "content": f"word{n} {k}"} for k in range(8)]
            task = asyncio.create_task(db.memories.create_many(records))
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await db.users.create()  # waits for running commits
        labels = [each.label async for each in db.memories.iterate()]
        groups = {label.split("-")[0] for label in labels}

        assert sorted(labels) == sorted(f"{group}-{k}" for group in groups for k in range(8))
        hits = await db.memories.search_semantic("archive", "word", limit=500)
        assert sorted(hit.memory.label for hit in hits) == sorted(labels)
